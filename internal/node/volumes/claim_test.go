package volumes_test

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/node"
	"proa/internal/node/volumes"
	"proa/internal/store/memory"
)

// TestClaims checks what a pod gets of a claim, and what is said of one that it cannot have.
func TestClaims(t *testing.T) {
	type parts struct {
		pod   *corev1.Pod
		claim *corev1.PersistentVolumeClaim
		pv    *corev1.PersistentVolume
	}
	pvc := func(s *corev1.PersistentVolumeClaimVolumeSource) corev1.VolumeSource {
		return corev1.VolumeSource{PersistentVolumeClaim: s}
	}
	for _, tt := range []struct {
		name   string
		change func(*parts)
		want   string // the error's; empty: none
	}{
		{"hostPath", func(*parts) {}, ""},
		{"local", func(p *parts) {
			p.pv.Spec.Local, p.pv.Spec.HostPath = &corev1.LocalVolumeSource{Path: p.pv.Spec.HostPath.Path}, nil
		}, ""},
		{"local that is not there", func(p *parts) {
			p.pv.Spec.Local, p.pv.Spec.HostPath = &corev1.LocalVolumeSource{Path: "/there/is/none"}, nil
		}, "stat /there/is/none: no such file or directory"},
		{"from elsewhere", func(p *parts) {
			p.pv.Spec.NFS, p.pv.Spec.HostPath = &corev1.NFSVolumeSource{Server: "s", Path: "/p"}, nil
		}, `persistentvolume "pv" is neither hostPath nor local: other kinds are not known to the node`},
		{"a block device", func(p *parts) { p.pv.Spec.VolumeMode = new(corev1.PersistentVolumeBlock) },
			`persistentvolume "pv" has volumeMode Block; the node knows Filesystem only`},
		{"none", func(p *parts) { p.claim = nil }, `persistentvolumeclaims "c" not found`},
		{"waiting", func(p *parts) { p.claim.Status.Phase = corev1.ClaimPending }, `persistentvolumeclaim "c" is not bound to a volume`},
		{"somebody else's", func(p *parts) { p.pv.Spec.ClaimRef.UID = "other" }, `persistentvolume "pv" is bound to another claim than "c"`},
		{"ephemeral", func(p *parts) {
			p.claim.Name, p.claim.OwnerReferences = "p-v", []metav1.OwnerReference{*metav1.NewControllerRef(p.pod, corev1.SchemeGroupVersion.WithKind("Pod"))}
			p.pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
		}, ""},
		{"ephemeral, made by somebody", func(p *parts) {
			p.claim.Name = "p-v"
			p.pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
		}, `persistentvolumeclaim "p-v" was not made for this pod: delete it, or rename the volume`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := memory.New(nil)
			s, err := apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { s.Close(); _ = e.Close() }()
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			_, err = core.Namespace.Create(t.Context(), s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}})
			check(err)
			dir, size := t.TempDir(), corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
			check(os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
			modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
			p := parts{
				pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1"}, Spec: corev1.PodSpec{
					SecurityContext: &corev1.PodSecurityContext{FSGroup: new(int64(os.Getgid()))},
					Volumes:         []corev1.Volume{{Name: "v", VolumeSource: pvc(&corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: false})}}}},
				claim: &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"},
					Spec:   corev1.PersistentVolumeClaimSpec{AccessModes: modes, VolumeName: "pv", Resources: corev1.VolumeResourceRequirements{Requests: size}},
					Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}},
				pv: &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{AccessModes: modes, Capacity: size,
					ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "c"}, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}},
			}
			tt.change(&p)
			if c := p.claim; c != nil {
				status := c.Status
				made, err := core.PersistentVolumeClaim.Create(t.Context(), s, c)
				check(err)
				if p.pv.Spec.ClaimRef.UID == "" {
					p.pv.Spec.ClaimRef.UID = made.UID
				}
				made = api.Clone(made)
				made.Status = status
				_, err = core.PersistentVolumeClaim.UpdateStatus(t.Context(), s, made)
				check(err)
			}
			if p.pv.Spec.Local != nil {
				p.pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
					{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n"}}}}}}}
			}
			_, err = core.PersistentVolume.Create(t.Context(), s, p.pv)
			check(err)
			m := volumes.New(volumes.Options{Handler: s, Plain: true})
			defer m.Close()
			run := &node.Run{Pod: p.pod, Dir: t.TempDir(), Volumes: map[string]node.Volume{}, Changed: func() {}}
			err = m.Step().Start(t.Context(), run)
			if tt.want != "" {
				if err == nil || !strings.HasSuffix(err.Error(), `volume "v" : `+tt.want) {
					t.Errorf("%v, want %s", err, tt.want)
				}
				return
			}
			check(err)
			if got := run.Volumes["v"]; got.Path != dir {
				t.Errorf("it is at %q, not %q", got.Path, dir)
			}
			st, err := os.Stat(filepath.Join(dir, "file"))
			check(err)
			folder, err := os.Stat(dir)
			check(err)
			want, wantFolder := fs.FileMode(0o600), fs.FileMode(0)
			if p.pv.Spec.Local != nil { // what a pod's group may do is said of these only
				want, wantFolder = 0o660, fs.ModeSetgid
			}
			if st.Mode().Perm() != want || folder.Mode()&fs.ModeSetgid != wantFolder {
				t.Errorf("the file has mode %v, the folder %v", st.Mode(), folder.Mode())
			}
		})
	}
}
