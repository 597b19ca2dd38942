package core

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
)

// onlyMountable is the annotation that lets pods mount only the secrets that
// their service account lists.
const onlyMountable = "kubernetes.io/enforce-mountable-secrets"

// ServiceAccount is who the processes in a pod are for the API.
var ServiceAccount = &api.Kind[*corev1.ServiceAccount]{
	API: "v1", Resource: "serviceaccounts", Scope: api.Namespaced, Short: []string{"sa"},
	Prepare: func(s, _ *corev1.ServiceAccount) {
		for i := range s.Secrets {
			s.Secrets[i] = corev1.ObjectReference{Name: s.Secrets[i].Name}
		}
	},
	Warn: func(s, old *corev1.ServiceAccount) []string {
		_, used := s.Annotations[onlyMountable]
		if used && (old == nil || s.Annotations[onlyMountable] != old.Annotations[onlyMountable]) {
			return []string{"metadata.annotations[" + onlyMountable + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
		}
		return nil
	},
	Sub: map[string]*api.Sub{
		"token": {
			Verbs: []api.Verb{api.Create},
			In:    func() api.Object { return new(authenticationv1.TokenRequest) },
			API:   "authentication.k8s.io/v1", Kind: "TokenRequest",
		},
	},
}
