package volumes

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"proa/internal/kinds/core"
	"proa/internal/node"
)

// claimed is the volume that a claim is bound to, the pod's own claim for an ephemeral
// one. Volumes that are on the node are used where they are; what must be attached or
// mounted from elsewhere is for a CSI driver to do, and none is asked yet.
func (p *podVolumes) claimed(ctx context.Context, v *corev1.Volume) (node.Volume, error) {
	pv, readOnly, err := p.bound(ctx, v)
	if err != nil {
		return node.Volume{}, err
	}
	if m := pv.Spec.VolumeMode; m != nil && *m != corev1.PersistentVolumeFilesystem {
		return node.Volume{}, fmt.Errorf("persistentvolume %q has volumeMode %s; the node knows Filesystem only", pv.Name, *m)
	}
	switch {
	case pv.Spec.HostPath != nil:
		return node.Volume{Path: pv.Spec.HostPath.Path, ReadOnly: readOnly}, hostPath(pv.Spec.HostPath)
	case pv.Spec.Local != nil:
		return node.Volume{Path: pv.Spec.Local.Path, ReadOnly: readOnly}, p.local(pv.Spec.Local.Path, readOnly)
	}
	return node.Volume{}, fmt.Errorf("persistentvolume %q is neither hostPath nor local: other kinds are not known to the node", pv.Name)
}

// bound finds what the claim is bound to.
func (p *podVolumes) bound(ctx context.Context, v *corev1.Volume) (pv *corev1.PersistentVolume, readOnly bool, err error) {
	pod, name := p.run.Pod, ""
	if v.Ephemeral != nil {
		name = ephemeral.VolumeClaimName(pod, v)
	} else {
		name, readOnly = v.PersistentVolumeClaim.ClaimName, v.PersistentVolumeClaim.ReadOnly
	}
	c, err := core.PersistentVolumeClaim.Get(ctx, p.m.Handler, pod.Namespace, name)
	switch {
	case err != nil:
		return nil, false, err
	case v.Ephemeral != nil && ephemeral.VolumeIsForPod(pod, c) != nil:
		return nil, false, fmt.Errorf("persistentvolumeclaim %q was not made for this pod: delete it, or rename the volume", name)
	case c.DeletionTimestamp != nil:
		return nil, false, fmt.Errorf("persistentvolumeclaim %q is being deleted", name)
	case c.Status.Phase != corev1.ClaimBound || c.Spec.VolumeName == "":
		return nil, false, fmt.Errorf("persistentvolumeclaim %q is not bound to a volume", name)
	}
	pv, err = core.PersistentVolume.Get(ctx, p.m.Handler, "", c.Spec.VolumeName)
	if err == nil && (pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != c.UID) {
		err = fmt.Errorf("persistentvolume %q is bound to another claim than %q", pv.Name, name)
	}
	return pv, readOnly, err
}

// local checks a folder that a volume of kind local is, and gives it to the pod's group.
func (p *podVolumes) local(path string, readOnly bool) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is not a directory: the node does not put a file system on a device", path)
	}
	g := group(p.run.Pod)
	if g == nil || readOnly {
		return nil
	}
	policy := p.run.Pod.Spec.SecurityContext.FSGroupChangePolicy
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch && hasGroup(st, *g) {
		return nil
	}
	return filepath.WalkDir(path, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		st, err := e.Info()
		if err != nil || hasGroup(st, *g) {
			return err
		}
		if err := os.Lchown(file, -1, int(*g)); err != nil {
			return err
		}
		return os.Chmod(file, groupMode(st.Mode()))
	})
}

// groupMode is a mode with which the group may do what the owner of a volume should.
func groupMode(m fs.FileMode) fs.FileMode {
	if m.IsDir() {
		return m&(fs.ModePerm|fs.ModeSticky) | 0o770 | fs.ModeSetgid
	}
	return m&fs.ModePerm | 0o660
}

// hasGroup says whether a file is a group's, and its to read and write.
func hasGroup(st fs.FileInfo, group int64) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && int64(sys.Gid) == group && groupMode(st.Mode())&^st.Mode() == 0
}
