package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/kinds/storage"
	"proa/internal/sched"
)

// retell is how often it is said again why a claim waits: events are kept for an hour.
const retell = 20 * time.Minute

// The annotations of a claim by which a provisioner knows that it is asked; it has both.
const (
	provisionerAnnotation    = "volume.kubernetes.io/storage-provisioner"
	oldProvisionerAnnotation = "volume.beta.kubernetes.io/storage-provisioner"
)

// claim gives a claim its volume, or says why it has none.
func (b *volumeBinder) claim(ctx context.Context, c *control.Cluster, p *corev1.PersistentVolumeClaim) (time.Duration, error) {
	switch {
	case completed(p):
		return 0, keepVolume(ctx, c, p)
	case p.DeletionTimestamp != nil:
		return 0, nil // nothing begins any more
	case p.Spec.VolumeName != "":
		return wantNamed(ctx, c, p)
	}
	if v := volumeSetAside(c, p); v != nil {
		return 0, bindClaim(ctx, c, p, v)
	}
	name := sched.ClaimClass(p)
	var class *storagev1.StorageClass
	if name != "" {
		s, ok, err := present(ctx, c, storage.StorageClass, "", name, nil)
		if err != nil {
			return 0, err
		}
		if ok {
			class = s
		}
	}
	if !late(class) {
		if v := b.take(c, p, name); v != nil {
			defer b.giveBack(v)
			return 0, bindClaim(ctx, c, p, v)
		}
	}
	if !core.ClaimNamesClass(p) {
		if s := storage.DefaultOf(slices.Values(control.All(c, storage.StorageClass, ""))); s != nil {
			next := api.Clone(p)
			next.Spec.StorageClassName = new(s.Name)
			_, err := core.PersistentVolumeClaim.Update(ctx, c, next)
			return 0, err
		}
	}
	switch {
	case late(class) && p.Annotations[sched.SelectedNode] == "":
		tellLate(c, p)
	case name != "":
		if err := provision(ctx, c, p, name, class); err != nil {
			return 0, err
		}
	default:
		c.Eventf(p, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	}
	return retell, nil
}

// late says whether claims of a class get their volumes with their first pod.
func late(s *storagev1.StorageClass) bool {
	return s != nil && s.VolumeBindingMode != nil && *s.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// meantFor says whether a volume names a claim as its own.
func meantFor(v *corev1.PersistentVolume, p *corev1.PersistentVolumeClaim) bool {
	r := v.Spec.ClaimRef
	return r != nil && r.Namespace == p.Namespace && r.Name == p.Name && (r.UID == "" || r.UID == p.UID)
}

// volumeSetAside is the volume that was made, or set aside, for a claim that names none; nil if there is none.
func volumeSetAside(c *control.Cluster, p *corev1.PersistentVolumeClaim) (best *corev1.PersistentVolume) {
	for _, v := range volumesFor.Find(c, sched.ObjectKey(p.Namespace, p.Name)) {
		if !meantFor(v, p) {
			continue
		}
		if why := core.VolumeLacks(v, p); why != "" {
			c.Eventf(p, corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind to the volume %q, which is meant for this claim: %s", v.Name, why)
		} else if best == nil || best.Spec.ClaimRef.UID == "" && v.Spec.ClaimRef.UID != "" {
			best = v
		}
	}
	return best
}

// selectorOf is what a claim asks of the labels of volumes; nothing suits one that can not be read.
func selectorOf(p *corev1.PersistentVolumeClaim) labels.Selector {
	if p.Spec.Selector == nil {
		return labels.Everything()
	}
	s, err := metav1.LabelSelectorAsSelector(p.Spec.Selector)
	if err != nil {
		return labels.Nothing()
	}
	return s
}

// suits says whether a claim could have a volume that is free.
func suits(v *corev1.PersistentVolume, p *corev1.PersistentVolumeClaim, s labels.Selector) bool {
	return core.VolumeUnsuited(v, p, sched.ClaimClass(p)) == "" && s.Matches(labels.Set(v.Labels))
}

// closest is the volume that suits a claim and wastes least: of those with the fewest
// access modes the smallest, of equal ones the first by name; nil if none suits.
func closest(p *corev1.PersistentVolumeClaim, all []*corev1.PersistentVolume) (best *corev1.PersistentVolume) {
	s := selectorOf(p)
	for _, v := range all {
		if (best == nil || closer(v, best)) && suits(v, p, s) {
			best = v
		}
	}
	return best
}

func closer(a, b *corev1.PersistentVolume) bool {
	x, y := a.Spec.Capacity[corev1.ResourceStorage], b.Spec.Capacity[corev1.ResourceStorage]
	return cmp.Or(cmp.Compare(len(a.Spec.AccessModes), len(b.Spec.AccessModes)), x.Cmp(y), cmp.Compare(a.Name, b.Name)) < 0
}

// wantNamed binds a claim to the volume that it names, if it may have it.
func wantNamed(ctx context.Context, c *control.Cluster, p *corev1.PersistentVolumeClaim) (time.Duration, error) {
	v, ok, err := present(ctx, c, core.PersistentVolume, "", p.Spec.VolumeName, nil)
	switch {
	case err != nil:
		return 0, err
	case !ok:
		c.Eventf(p, corev1.EventTypeNormal, "FailedBinding", "the persistent volume %q, which this claim names, does not exist", p.Spec.VolumeName)
	case v.Spec.ClaimRef == nil:
		why := core.VolumeUnsuited(v, p, sched.ClaimClass(p))
		if why == "" {
			return 0, bindClaim(ctx, c, p, v)
		}
		c.Eventf(p, corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind to requested volume %q: %s", v.Name, why)
	case meantFor(v, p):
		return 0, bindClaim(ctx, c, p, v)
	default:
		c.Eventf(p, corev1.EventTypeWarning, "FailedBinding", "volume %q already bound to a different claim.", v.Name)
	}
	return retell, nil
}

// bindClaim binds a volume and a claim to each other: the volume first, so that
// nobody else gets it, then the claim. Each of the writes may have been made before.
func bindClaim(ctx context.Context, c *control.Cluster, p *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) (err error) {
	if r := v.Spec.ClaimRef; r == nil || r.UID != p.UID {
		next := api.Clone(v)
		sched.ClaimVolume(next, p)
		if v, err = core.PersistentVolume.Update(ctx, c, next); err != nil {
			return err
		}
	}
	if p.Spec.VolumeName != v.Name || !completed(p) {
		next := api.Clone(p)
		if next.Spec.VolumeName != v.Name {
			next.Spec.VolumeName = v.Name
			metav1.SetMetaDataAnnotation(&next.ObjectMeta, sched.BoundByController, "yes")
		}
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, sched.BindCompleted, "yes")
		if p, err = core.PersistentVolumeClaim.Update(ctx, c, next); err != nil {
			return err
		}
	}
	_, err = control.SetStatus(ctx, c, core.PersistentVolumeClaim, p, func(p *corev1.PersistentVolumeClaim) {
		p.Status.AccessModes = v.Spec.AccessModes
		if p.Status.Phase != corev1.ClaimBound { // later its file system may lag behind its volume
			p.Status.Phase = corev1.ClaimBound
			p.Status.Capacity = v.Spec.Capacity
			p.Status.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
		}
	})
	return err
}

// keepVolume sees that a claim and its volume still belong to each other.
func keepVolume(ctx context.Context, c *control.Cluster, p *corev1.PersistentVolumeClaim) error {
	if p.Spec.VolumeName == "" {
		return lose(ctx, c, p, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	ours := func(v *corev1.PersistentVolume) bool { return v.Spec.ClaimRef == nil || meantFor(v, p) }
	v, ok, err := present(ctx, c, core.PersistentVolume, "", p.Spec.VolumeName, ours)
	switch {
	case err != nil:
		return err
	case !ok:
		return lose(ctx, c, p, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case !ours(v):
		return lose(ctx, c, p, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	case v.Spec.ClaimRef == nil && p.DeletionTimestamp != nil:
		return nil
	}
	return bindClaim(ctx, c, p, v)
}

// lose says that a claim's volume is gone for good.
func lose(ctx context.Context, c *control.Cluster, p *corev1.PersistentVolumeClaim, reason, message string) error {
	if p.Status.Phase == corev1.ClaimLost {
		return nil
	}
	_, err := control.SetStatus(ctx, c, core.PersistentVolumeClaim, p, func(p *corev1.PersistentVolumeClaim) {
		p.Status.Phase, p.Status.AccessModes, p.Status.Capacity, p.Status.CurrentVolumeAttributesClassName = corev1.ClaimLost, nil, nil, nil
	})
	if err == nil {
		c.Eventf(p, corev1.EventTypeWarning, reason, "%s", message)
	}
	return err
}

// tellLate says for whom a claim waits that gets its volume with its first pod.
func tellLate(c *control.Cluster, p *corev1.PersistentVolumeClaim) {
	var pods []string
	for _, o := range podsUsing.Find(c, sched.ObjectKey(p.Namespace, p.Name)) {
		if o.Spec.NodeName == "" && !core.PodFinished(o) {
			pods = append(pods, o.Name)
		}
	}
	switch len(pods) {
	case 0:
		c.Eventf(p, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case 1:
		c.Eventf(p, corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pod %s to be scheduled", pods[0])
	default:
		c.Eventf(p, corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pods %s to be scheduled", strings.Join(pods, ","))
	}
}

// drivers are the CSI drivers that took the place of what Kubernetes once had built in.
var drivers = map[string]string{
	"kubernetes.io/aws-ebs":         "ebs.csi.aws.com",
	"kubernetes.io/azure-disk":      "disk.csi.azure.com",
	"kubernetes.io/azure-file":      "file.csi.azure.com",
	"kubernetes.io/cinder":          "cinder.csi.openstack.org",
	"kubernetes.io/gce-pd":          "pd.csi.storage.gke.io",
	"kubernetes.io/portworx-volume": "pxd.portworx.com",
	"kubernetes.io/vsphere-volume":  "csi.vsphere.vmware.com",
}

// builtIn says whether a provisioner is one that only Kubernetes itself could be.
func builtIn(provisioner string) bool { return strings.HasPrefix(provisioner, "kubernetes.io/") }

// provision asks the provisioner of a claim's class for a volume.
func provision(ctx context.Context, c *control.Cluster, p *corev1.PersistentVolumeClaim, name string, class *storagev1.StorageClass) error {
	if class == nil {
		c.Eventf(p, corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", name)
		return nil
	}
	by := cmp.Or(drivers[class.Provisioner], class.Provisioner)
	if builtIn(by) {
		c.Eventf(p, corev1.EventTypeWarning, "ProvisioningFailed", "%s", unmade(class))
		return nil
	}
	if p.Annotations[provisionerAnnotation] != by || p.Annotations[oldProvisionerAnnotation] != by {
		next := api.Clone(p)
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, provisionerAnnotation, by)
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, oldProvisionerAnnotation, by)
		_, err := core.PersistentVolumeClaim.Update(ctx, c, next)
		return err // the change comes back here
	}
	c.Eventf(p, corev1.EventTypeNormal, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
		"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", by)
	return nil
}

// unmade says why nobody makes volumes of a class.
func unmade(class *storagev1.StorageClass) string {
	if class.Provisioner == sched.NoProvisioner {
		return fmt.Sprintf("no volume plugin matched name: %s: volumes of the storage class %q are made by hand, and none that is free suits this claim", class.Provisioner, class.Name)
	}
	return fmt.Sprintf("no volume plugin matched name: %s: the storage class %q should name the provisioner of a CSI driver", class.Provisioner, class.Name)
}
