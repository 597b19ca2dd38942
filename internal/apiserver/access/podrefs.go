package access

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/storage"
)

// What pods refer to: the edges of the node authorizer's graph.

func usesSecret(ctx context.Context, n *Nodes, p *corev1.Pod, a Attributes) bool {
	if p.Namespace == a.Namespace && slices.Contains(secretsOf(p), a.Name) {
		return true
	}
	for _, name := range claimsOf(p) {
		if v := n.volumeOf(ctx, p.Namespace, name); v != nil && slices.Contains(volumeSecrets(v), corev1.SecretReference{Namespace: a.Namespace, Name: a.Name}) {
			return true
		}
	}
	return false
}

func usesVolume(ctx context.Context, n *Nodes, p *corev1.Pod, a Attributes) bool {
	for _, name := range claimsOf(p) {
		if v := n.volumeOf(ctx, p.Namespace, name); v != nil && v.Name == a.Name {
			return true
		}
	}
	return false
}

// volumeOf is the volume that a claim is bound to, and that is bound to it.
func (n *Nodes) volumeOf(ctx context.Context, ns, claim string) *corev1.PersistentVolume {
	c, err := core.PersistentVolumeClaim.Get(ctx, n.Handler, ns, claim)
	if err != nil || c.Spec.VolumeName == "" {
		return nil
	}
	v, err := core.PersistentVolume.Get(ctx, n.Handler, "", c.Spec.VolumeName)
	if err != nil || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.Namespace != ns || v.Spec.ClaimRef.Name != claim {
		return nil
	}
	return v
}

// containersOf calls f for what all kinds of containers have in common.
func containersOf(p *corev1.Pod, f func(env []corev1.EnvVar, from []corev1.EnvFromSource)) {
	for i := range p.Spec.InitContainers {
		f(p.Spec.InitContainers[i].Env, p.Spec.InitContainers[i].EnvFrom)
	}
	for i := range p.Spec.Containers {
		f(p.Spec.Containers[i].Env, p.Spec.Containers[i].EnvFrom)
	}
	for i := range p.Spec.EphemeralContainers {
		f(p.Spec.EphemeralContainers[i].Env, p.Spec.EphemeralContainers[i].EnvFrom)
	}
}

func secretsOf(p *corev1.Pod) (out []string) {
	for _, r := range p.Spec.ImagePullSecrets {
		out = append(out, r.Name)
	}
	containersOf(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				out = append(out, e.ValueFrom.SecretKeyRef.Name)
			}
		}
		for _, e := range from {
			if e.SecretRef != nil {
				out = append(out, e.SecretRef.Name)
			}
		}
	})
	local := func(r *corev1.LocalObjectReference) {
		if r != nil {
			out = append(out, r.Name)
		}
	}
	for i := range p.Spec.Volumes {
		switch v := &p.Spec.Volumes[i]; {
		case v.Secret != nil:
			out = append(out, v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.Secret != nil {
					out = append(out, s.Secret.Name)
				}
			}
		case v.AzureFile != nil:
			out = append(out, v.AzureFile.SecretName)
		case v.CSI != nil:
			local(v.CSI.NodePublishSecretRef)
		case v.CephFS != nil:
			local(v.CephFS.SecretRef)
		case v.Cinder != nil:
			local(v.Cinder.SecretRef)
		case v.FlexVolume != nil:
			local(v.FlexVolume.SecretRef)
		case v.ISCSI != nil:
			local(v.ISCSI.SecretRef)
		case v.RBD != nil:
			local(v.RBD.SecretRef)
		case v.ScaleIO != nil:
			local(v.ScaleIO.SecretRef)
		case v.StorageOS != nil:
			local(v.StorageOS.SecretRef)
		}
	}
	return out
}

func usesConfigMap(p *corev1.Pod, name string) (yes bool) {
	containersOf(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for _, e := range env {
			yes = yes || e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil && e.ValueFrom.ConfigMapKeyRef.Name == name
		}
		for _, e := range from {
			yes = yes || e.ConfigMapRef != nil && e.ConfigMapRef.Name == name
		}
	})
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		yes = yes || v.ConfigMap != nil && v.ConfigMap.Name == name
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				yes = yes || s.ConfigMap != nil && s.ConfigMap.Name == name
			}
		}
	}
	return yes
}

func claimsOf(p *corev1.Pod) (out []string) {
	for i := range p.Spec.Volumes {
		switch v := &p.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			out = append(out, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			out = append(out, p.Name+"-"+v.Name)
		}
	}
	return out
}

func usesResourceClaim(p *corev1.Pod, name string) bool {
	for _, c := range p.Spec.ResourceClaims {
		if c.ResourceClaimName != nil && *c.ResourceClaimName == name {
			return true
		}
	}
	for _, c := range p.Status.ResourceClaimStatuses {
		if c.ResourceClaimName != nil && *c.ResourceClaimName == name {
			return true
		}
	}
	x := p.Status.ExtendedResourceClaimStatus
	return x != nil && x.ResourceClaimName == name
}

// volumeSecrets are the secrets that a volume is mounted with.
func volumeSecrets(v *corev1.PersistentVolume) (out []corev1.SecretReference) {
	own := func(r *corev1.SecretReference) {
		if r == nil {
			return
		}
		s := *r
		if s.Namespace == "" && v.Spec.ClaimRef != nil {
			s.Namespace = v.Spec.ClaimRef.Namespace
		}
		out = append(out, s)
	}
	switch s := &v.Spec.PersistentVolumeSource; {
	case s.AzureFile != nil:
		r := &corev1.SecretReference{Name: s.AzureFile.SecretName}
		if s.AzureFile.SecretNamespace != nil {
			r.Namespace = *s.AzureFile.SecretNamespace
		}
		own(r)
	case s.CephFS != nil:
		own(s.CephFS.SecretRef)
	case s.Cinder != nil:
		own(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		own(s.FlexVolume.SecretRef)
	case s.RBD != nil:
		own(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		own(s.ScaleIO.SecretRef)
	case s.ISCSI != nil:
		own(s.ISCSI.SecretRef)
	case s.StorageOS != nil && s.StorageOS.SecretRef != nil:
		own(&corev1.SecretReference{Namespace: s.StorageOS.SecretRef.Namespace, Name: s.StorageOS.SecretRef.Name})
	case s.CSI != nil:
		own(s.CSI.NodePublishSecretRef)
		own(s.CSI.NodeStageSecretRef)
		own(s.CSI.NodeExpandSecretRef)
	}
	return out
}

func attachment(ctx context.Context, h api.Handler, name string) (*storagev1.VolumeAttachment, error) {
	return storage.VolumeAttachment.Get(ctx, h, "", name)
}
