package plugins

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"proa/internal/sched"
)

// VolumeRestrictions keeps pods apart that can not share a volume: a claim of
// the mode ReadWriteOncePod has one user in the whole cluster, and some disks
// have one on a node.
var VolumeRestrictions = &sched.Plugin{
	Name:  "VolumeRestrictions",
	Wakes: sched.PodGone | sched.NodeAdded | sched.Storage,
	Helps: func(pod *sched.Pod, _ *sched.State, c *sched.Change) bool {
		if c.What&sched.PodGone == 0 || c.Pod == nil {
			return true
		}
		theirs := sched.Claims(c.Pod.Pod)
		sharing := c.Pod.Namespace == pod.Namespace && slices.ContainsFunc(sched.Claims(pod.Pod), func(name string) bool { return slices.Contains(theirs, name) })
		return sharing || diskClash(pod.Pod, c.Pod.Pod)
	},
	For: func(pod *sched.Pod, s *sched.State) *sched.Check {
		var single []string
		for _, name := range sched.Claims(pod.Pod) {
			if c := s.Volumes.Claims[sched.ObjectKey(pod.Namespace, name)]; c != nil && slices.Contains(c.Spec.AccessModes, corev1.ReadWriteOncePod) {
				single = append(single, name)
			}
		}
		disks := slices.ContainsFunc(pod.Spec.Volumes, isDisk)
		if len(single) == 0 && !disks {
			return nil
		}
		users := map[types.UID]bool{}
		for _, name := range single {
			for uid := range s.Volumes.Users(pod.Namespace, name) {
				users[uid] = true
			}
		}
		others := len(users)
		taken := sched.No("node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode")
		elsewhere := sched.Never("node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode")
		disk := sched.No("node(s) had no available disk")
		c := &sched.Check{Fits: func(n *sched.Node) sched.Verdict {
			if others > 0 {
				for uid := range users {
					if n.Pods[uid] != nil {
						return taken // it could be made to go
					}
				}
				return elsewhere
			}
			if disks {
				for _, p := range n.Pods {
					if diskClash(pod.Pod, p.Pod) {
						return disk
					}
				}
			}
			return sched.Verdict{}
		}}
		if len(single) > 0 {
			change := func(p *sched.Pod, by int) {
				if users[p.UID] {
					others += by
				}
			}
			c.With = func(p *sched.Pod, _ *sched.Node) { change(p, 1) }
			c.Without = func(p *sched.Pod, _ *sched.Node) { change(p, -1) }
		}
		return c
	},
}

func isDisk(v corev1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil
}

// diskClash says whether two pods mount the same disk in ways that exclude each other.
func diskClash(a, b *corev1.Pod) bool {
	for i := range a.Spec.Volumes {
		for j := range b.Spec.Volumes {
			if sameDisk(&a.Spec.Volumes[i], &b.Spec.Volumes[j]) {
				return true
			}
		}
	}
	return false
}

func sameDisk(a, b *corev1.Volume) bool {
	switch {
	case a.GCEPersistentDisk != nil && b.GCEPersistentDisk != nil:
		x, y := a.GCEPersistentDisk, b.GCEPersistentDisk
		return x.PDName == y.PDName && !(x.ReadOnly && y.ReadOnly)
	case a.AWSElasticBlockStore != nil && b.AWSElasticBlockStore != nil:
		return a.AWSElasticBlockStore.VolumeID == b.AWSElasticBlockStore.VolumeID
	case a.ISCSI != nil && b.ISCSI != nil:
		x, y := a.ISCSI, b.ISCSI
		return x.IQN == y.IQN && !(x.ReadOnly && y.ReadOnly)
	case a.RBD != nil && b.RBD != nil:
		x, y := a.RBD, b.RBD
		monitors := slices.ContainsFunc(x.CephMonitors, func(m string) bool { return slices.Contains(y.CephMonitors, m) })
		return monitors && x.RBDPool == y.RBDPool && x.RBDImage == y.RBDImage && !(x.ReadOnly && y.ReadOnly)
	}
	return false
}

// VolumeZone keeps a pod to the zones and regions of its volumes' labels.
var VolumeZone = &sched.Plugin{
	Name:  "VolumeZone",
	Wakes: sched.NodeAdded | sched.NodeLabels | sched.Storage,
	For: func(pod *sched.Pod, s *sched.State) *sched.Check {
		type want struct {
			key    string
			values sets.Set[string]
		}
		var all []want
		for _, name := range sched.Claims(pod.Pod) {
			c := s.Volumes.Claims[sched.ObjectKey(pod.Namespace, name)]
			if c == nil || c.Spec.VolumeName == "" {
				continue
			}
			pv := s.Volumes.Volumes[c.Spec.VolumeName]
			if pv == nil {
				continue
			}
			for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion} {
				if v, ok := pv.Labels[key]; ok {
					all = append(all, want{key, sets.New(strings.Split(v, "__")...)})
				}
			}
		}
		if len(all) == 0 {
			return nil
		}
		no := sched.Never("node(s) had no available volume zone")
		newer := map[string]string{corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion}
		return &sched.Check{Fits: func(n *sched.Node) sched.Verdict {
			for _, w := range all {
				v, ok := n.Labels[w.key]
				if !ok {
					v, ok = n.Labels[newer[w.key]]
				}
				if !ok || !w.values.Has(v) {
					return no
				}
			}
			return sched.Verdict{}
		}}
	},
}

// NodeVolumeLimits keeps to the number of volumes that a CSI driver says it can
// attach to a node.
var NodeVolumeLimits = &sched.Plugin{
	Name:  "NodeVolumeLimits",
	Wakes: sched.NodeAdded | sched.PodGone | sched.Storage,
	Helps: func(_ *sched.Pod, _ *sched.State, c *sched.Change) bool {
		return c.What&sched.PodGone == 0 || c.Pod == nil || len(c.Pod.Spec.Volumes) > 0
	},
	For: func(pod *sched.Pod, s *sched.State) *sched.Check {
		mine := attached(pod.Pod, s)
		if len(mine) == 0 {
			return nil
		}
		no := sched.No("node(s) exceed max volume count")
		return &sched.Check{Fits: func(n *sched.Node) sched.Verdict {
			csi := s.Volumes.Nodes[n.Name]
			if csi == nil {
				return sched.Verdict{}
			}
			var there map[string]string // drivers by volume
			for i := range csi.Spec.Drivers {
				d := &csi.Spec.Drivers[i]
				if d.Allocatable == nil || d.Allocatable.Count == nil {
					continue
				}
				if there == nil {
					there = map[string]string{}
					for _, p := range n.Pods {
						for id, driver := range attached(p.Pod, s) {
							there[id] = driver
						}
					}
				}
				have, more := 0, 0
				for _, driver := range there {
					if driver == d.Name {
						have++
					}
				}
				for id, driver := range mine {
					if _, shared := there[id]; driver == d.Name && !shared {
						more++
					}
				}
				if more > 0 && have+more > int(*d.Allocatable.Count) {
					return no
				}
			}
			return sched.Verdict{}
		}}
	},
}

// attached are the CSI volumes that a pod needs attached, with their drivers.
func attached(p *corev1.Pod, s *sched.State) map[string]string {
	if len(p.Spec.Volumes) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, name := range sched.Claims(p) {
		key := sched.ObjectKey(p.Namespace, name)
		c := s.Volumes.Claims[key]
		if c == nil {
			continue
		}
		if pv := s.Volumes.Volumes[c.Spec.VolumeName]; pv != nil {
			if pv.Spec.CSI != nil {
				out[pv.Spec.CSI.Driver+" "+pv.Spec.CSI.VolumeHandle] = pv.Spec.CSI.Driver
			}
			continue
		}
		if class := s.Volumes.Classes[sched.ClaimClass(c)]; class != nil {
			out["claim "+key] = class.Provisioner
		}
	}
	return out
}

// reaches says whether a storage class makes volumes for a node.
func reaches(class *storagev1.StorageClass, n *corev1.Node) bool {
	if len(class.AllowedTopologies) == 0 {
		return true
	}
	for _, term := range class.AllowedTopologies {
		all := len(term.MatchLabelExpressions) > 0
		for _, e := range term.MatchLabelExpressions {
			v, ok := n.Labels[e.Key]
			all = all && ok && slices.Contains(e.Values, v)
		}
		if all {
			return true
		}
	}
	return false
}
