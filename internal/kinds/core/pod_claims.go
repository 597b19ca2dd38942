package core

import corev1 "k8s.io/api/core/v1"

// PodResourceClaim is the name of the ResourceClaim that an entry in a pod's
// resourceClaims stands for. It is empty while the claim is still to be made from
// its template; needed is false if none is to be made.
func PodResourceClaim(p *corev1.Pod, entry *corev1.PodResourceClaim) (name string, needed bool) {
	if entry.ResourceClaimName != nil {
		return *entry.ResourceClaimName, true
	}
	for _, s := range p.Status.ResourceClaimStatuses {
		if s.Name == entry.Name {
			if s.ResourceClaimName == nil {
				return "", false
			}
			return *s.ResourceClaimName, true
		}
	}
	return "", true
}
