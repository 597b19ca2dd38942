package admit

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"proa/internal/api"
)

const (
	tokenPath         = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolumePrefix = "kube-api-access-"
	tokenSeconds      = 3607 // an hour and a little: the sign of a token that was put there by itself
	rootCAConfigMap   = "kube-root-ca.crt"
	mirrorAnnotation  = corev1.MirrorPodAnnotationKey

	// accountPatience is how long a pod in a new namespace waits for its account.
	accountPatience = 2 * time.Second
)

// serviceAccount gives a pod its account, the account's token, and the secrets
// with which its images are pulled.
var serviceAccount = &Step{
	Name: "ServiceAccount", For: []string{"pods"}, Verbs: []api.Verb{api.Create},
	Mutate: func(ctx context.Context, a *Attributes) error {
		pod := a.New.(*corev1.Pod)
		if pod.Annotations[mirrorAnnotation] != "" {
			return mirror(a, pod)
		}
		if pod.Spec.ServiceAccountName == "" {
			pod.Spec.ServiceAccountName = "default"
		}
		pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
		account, err := findAccount(ctx, a, pod)
		if err != nil {
			return err
		}
		if automount(pod, account) {
			mountToken(pod)
		}
		if len(pod.Spec.ImagePullSecrets) == 0 {
			pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
		}
		return nil
	},
}

// mirror lets a node show a pod that only it knows, which nothing of the API may reach.
func mirror(a *Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return forbidden(a, errors.New("a mirror pod may not reference service accounts"))
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil {
			return forbidden(a, errors.New("a mirror pod may not reference secrets"))
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				return forbidden(a, errors.New("a mirror pod may not use ServiceAccountToken volume projections"))
			}
		}
	}
	return nil
}

func findAccount(ctx context.Context, a *Attributes, pod *corev1.Pod) (*corev1.ServiceAccount, error) {
	gr := corev1.Resource("serviceaccounts")
	ns, name := pod.Namespace, pod.Spec.ServiceAccountName
	if found := a.State.Get(gr, ns, name); found != nil {
		return found.(*corev1.ServiceAccount), nil
	}
	var account *corev1.ServiceAccount
	ctx, cancel := context.WithTimeout(ctx, accountPatience)
	defer cancel()
	a.State.Wait(ctx, gr, func(r Reader) bool {
		if found := r.Get(gr, ns, name); found != nil {
			account = found.(*corev1.ServiceAccount)
		}
		return account != nil
	})
	if account == nil {
		return nil, forbidden(a, fmt.Errorf("error looking up service account %s/%s: serviceaccount %q not found", ns, name, name))
	}
	return account, nil
}

func automount(pod *corev1.Pod, account *corev1.ServiceAccount) bool {
	if v := pod.Spec.AutomountServiceAccountToken; v != nil {
		return *v
	}
	return account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken
}

// mountToken adds the volume with the token to every container that has
// nothing of its own in that place. All pods of an account have it under the same
// name, so that copies of a pod have the same spec (api.Alike).
func mountToken(pod *corev1.Pod) {
	name := ""
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolumePrefix) {
			name = v.Name
		}
	}
	add := name == ""
	if add {
		h := fnv.New32a()
		_, _ = h.Write([]byte(pod.Namespace + "/" + pod.Spec.ServiceAccountName))
		name = tokenVolumePrefix + rand.SafeEncodeString(fmt.Sprintf("%05d", h.Sum32()%100_000))
	}
	used := false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenPath})
			used = true
		}
	}
	if add && used {
		pod.Spec.Volumes = append(pod.Spec.Volumes, tokenVolume(name))
	}
}

func tokenVolume(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: new(int32(0o644)),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(tokenSeconds))}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}}}
}
