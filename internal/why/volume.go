package why

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"proa/internal/kinds/core"
	"proa/internal/kinds/storage"
	"proa/internal/sched"
)

// setup explains why a pod's containers have not been made yet; nil if nothing is known.
func (a *asker) setup(p *corev1.Pod) *Cause {
	c := is("", "node %s cannot set it up", p.Spec.NodeName)
	c.as(a.references(p)...)
	c.as(a.claimsOf(p)...)
	if len(c.Causes) > 0 {
		return c
	}
	e := a.last(p.UID, func(e *corev1.Event) bool {
		return e.Type == corev1.EventTypeWarning && !slices.Contains([]string{"FailedScheduling", "Unhealthy", "BackOff"}, e.Reason)
	})
	if e != nil {
		b := is("", "%s%s", e.Reason, said(e.Message)).since(firstSeen(e))
		switch e.Reason {
		case "FailedMount", "FailedAttachVolume", "FailedMapVolume":
			b.Text = "a volume cannot be mounted" + said(e.Message)
			b.help("see the volume and what provides it: kubectl describe pod %s%s", p.Name, a.inNamespace())
		case "NetworkNotReady":
			b.Text = "the pod network of the node is not ready" + said(e.Message)
			b.help("see the network plugin of node %s", p.Spec.NodeName)
		case "FailedCreatePodSandBox":
			b.Text = "its sandbox cannot be made" + said(e.Message)
			b.help("see the container runtime and the network plugin of node %s", p.Spec.NodeName)
		}
		return c.as(b)
	}
	if e := a.last(p.UID, reasons("Pulling", "Pulled")); e != nil && e.Reason == "Pulling" {
		return is("", "%s", strings.Replace(oneLine(e.Message), "Pulling", "node "+p.Spec.NodeName+" is pulling", 1)).since(firstSeen(e))
	}
	return nil
}

// A reference is what a pod needs of a config map or secret.
type reference struct {
	secret          bool
	name, key, user string
}

// refersTo is what a pod refers to that must be there.
func refersTo(p *corev1.Pod) (out []reference) {
	add := func(secret bool, name, key string, optional *bool, who string) {
		if name != "" && (optional == nil || !*optional) {
			out = append(out, reference{secret, name, key, who})
		}
	}
	for _, k := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, f := range k.EnvFrom {
			if r := f.ConfigMapRef; r != nil {
				add(false, r.Name, "", r.Optional, "the environment of container "+k.Name)
			}
			if r := f.SecretRef; r != nil {
				add(true, r.Name, "", r.Optional, "the environment of container "+k.Name)
			}
		}
		for _, e := range k.Env {
			if e.ValueFrom == nil {
				continue
			}
			who := fmt.Sprintf("the variable %s of container %s", e.Name, k.Name)
			if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
				add(false, r.Name, r.Key, r.Optional, who)
			}
			if r := e.ValueFrom.SecretKeyRef; r != nil {
				add(true, r.Name, r.Key, r.Optional, who)
			}
		}
	}
	for _, v := range p.Spec.Volumes {
		who := "the volume " + v.Name
		keys := func(secret bool, name string, items []corev1.KeyToPath, optional *bool) {
			add(secret, name, "", optional, who)
			for _, i := range items {
				add(secret, name, i.Key, optional, who)
			}
		}
		if s := v.ConfigMap; s != nil {
			keys(false, s.Name, s.Items, s.Optional)
		}
		if s := v.Secret; s != nil {
			keys(true, s.SecretName, s.Items, s.Optional)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				keys(false, s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
			}
			if s.Secret != nil {
				keys(true, s.Secret.Name, s.Secret.Items, s.Secret.Optional)
			}
		}
	}
	return out
}

// references explains what a pod refers to and is not there.
func (a *asker) references(p *corev1.Pod) (out []*Cause) {
	for _, r := range refersTo(p) {
		var c *Cause
		if r.secret {
			s, k := get(a, core.Secret, p.Namespace, r.name)
			c = a.lacks(r, "secret", k, func() bool { _, ok := s.Data[r.key]; return ok })
		} else {
			m, k := get(a, core.ConfigMap, p.Namespace, r.name)
			c = a.lacks(r, "configmap", k, func() bool {
				_, text := m.Data[r.key]
				_, binary := m.BinaryData[r.key]
				return text || binary
			})
		}
		if c != nil && !slices.ContainsFunc(out, func(o *Cause) bool { return o.Object == c.Object && same(o, c) }) {
			out = append(out, c)
		}
	}
	return out
}

func (a *asker) lacks(r reference, kind string, k known, has func() bool) *Cause {
	switch {
	case k == missing:
		c := is(kind+"/"+r.name, "there is none of that name, and %s needs it", r.user)
		if kind == "secret" {
			return c.help("make it: kubectl create secret generic %s%s --from-literal=KEY=VALUE, or mark the reference optional", r.name, a.inNamespace())
		}
		return c.help("make it: kubectl create configmap %s%s --from-literal=KEY=VALUE, or mark the reference optional", r.name, a.inNamespace())
	case k == there && r.key != "" && !has():
		return is(kind+"/"+r.name, "it has no key %s, and %s needs it", r.key, r.user).
			help("add the key %s to %s %s, or refer to one that is there", r.key, kind, r.name)
	}
	return nil
}

// claimsOf explains a pod's claims that have no volume.
func (a *asker) claimsOf(p *corev1.Pod) (out []*Cause) {
	for _, v := range p.Spec.Volumes {
		name := ""
		switch {
		case v.PersistentVolumeClaim != nil:
			name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			name = p.Name + "-" + v.Name
		default:
			continue
		}
		c, k := get(a, core.PersistentVolumeClaim, p.Namespace, name)
		switch {
		case k == missing && v.Ephemeral != nil:
			out = append(out, is("persistentvolumeclaim/"+name, "it is still to be made for the ephemeral volume %s", v.Name))
		case k == missing:
			out = append(out, is("persistentvolumeclaim/"+name, "there is none of that name, and the volume %s needs it", v.Name).
				help("make the claim %s, or change the name in the pod's volume %s", name, v.Name))
		case k == there:
			if b := a.claim(c); !b.fine && !a.holds(c) {
				out = append(out, b)
			}
		}
	}
	return out
}

// holds says whether a claim has its volume, and is to keep it.
func (a *asker) holds(p *corev1.PersistentVolumeClaim) bool {
	if p.Status.Phase != corev1.ClaimBound || p.DeletionTimestamp != nil {
		return false
	}
	_, k := get(a, core.PersistentVolume, "", p.Spec.VolumeName)
	return k != missing
}

// claim explains why a claim has no volume.
func (a *asker) claim(p *corev1.PersistentVolumeClaim) *Cause {
	me := "persistentvolumeclaim/" + p.Name
	done, ok := a.enter(me)
	if !ok {
		return fine(me, "see above")
	}
	defer done()
	c := is(me, "it has no volume yet").since(p.CreationTimestamp.Time)
	if l := a.leaving(p); l != nil {
		c = is(me, "it is being deleted").since(p.DeletionTimestamp.Time).as(l.Causes...)
		for _, u := range a.holders(p) {
			c.as(is("pod/"+u.Name, "it uses it").help("delete the pods that use the claim %s", p.Name))
		}
		return c
	}
	switch {
	case a.holds(p):
		return a.changing(p, fine(me, "it is bound to the volume %s", p.Spec.VolumeName))
	case p.Status.Phase == corev1.ClaimBound || p.Status.Phase == corev1.ClaimLost:
		return is(me, "it has lost its volume").as(a.lost(p))
	}
	if name := p.Spec.VolumeName; name != "" {
		return c.as(a.wanted(p, name))
	}
	class := sched.ClaimClass(p)
	if class == "" && p.Spec.StorageClassName == nil {
		b := is("", "it names no storage class, and no class is the default")
		if all, ok := list(a, storage.StorageClass, ""); ok {
			if i := slices.IndexFunc(all, storage.IsDefault); i >= 0 {
				b.Text = fmt.Sprintf("it is still to get the default storage class, %s", all[i].Name)
				return c.as(b)
			}
			if len(all) == 0 {
				b.Text = "it names no storage class, and there are none"
				return c.as(b, a.byHand(p, "")).help("make a storage class whose provisioner runs, or a persistent volume by hand")
			}
			return c.as(b, a.byHand(p, "")).help("make one the default (annotation %s: \"true\"), or name one: %s", storage.DefaultClass, some(names(all)))
		}
		return c.as(b)
	}
	if class == "" {
		return c.as(is("", `its storage class is "": it takes only a persistent volume made by hand`).as(a.byHand(p, "")).
			help("make a persistent volume that suits it, or make the claim anew with a storage class"))
	}
	s, k := get(a, storage.StorageClass, "", class)
	switch k {
	case missing:
		b := is("storageclass/"+class, "there is no storage class of that name")
		b.as(a.byHand(p, class))
		all, _ := list(a, storage.StorageClass, "")
		return c.as(b.help("make the storage class %s, or make the claim anew with one that is there%s", class, listed(names(all))))
	case hidden:
		return c.as(is("", "it waits for a volume of the storage class %s", class))
	}
	return c.as(a.ofClass(p, s))
}

// changing explains what a claim that is bound waits for, if it is to be another.
func (a *asker) changing(p *corev1.PersistentVolumeClaim, c *Cause) *Cause {
	need, has := p.Spec.Resources.Requests[corev1.ResourceStorage], p.Status.Capacity[corev1.ResourceStorage]
	if has.IsZero() || need.Cmp(has) <= 0 {
		return c
	}
	c.fine = false
	b := is("", "it has %s, and is to have %s", has.String(), need.String())
	for _, cond := range p.Status.Conditions {
		if cond.Status != corev1.ConditionTrue {
			continue
		}
		b.since(cond.LastTransitionTime.Time)
		switch cond.Type {
		case corev1.PersistentVolumeClaimFileSystemResizePending:
			b.as(is("", "the file system grows when a node mounts it%s", said(cond.Message)).help("start, or restart, a pod that uses the claim %s", p.Name))
		default:
			b.as(is("", "%s%s", cond.Type, said(cond.Message)))
		}
	}
	if e := a.last(p.UID, reasons("VolumeResizeFailed", "ExternalExpanding")); e != nil {
		b.as(is("", "%s", oneLine(e.Message)).since(firstSeen(e)))
	}
	return c.as(b)
}

// ofClass explains why a claim has no volume of a class that there is.
func (a *asker) ofClass(p *corev1.PersistentVolumeClaim, s *storagev1.StorageClass) *Cause {
	at := "storageclass/" + s.Name
	byHand := s.Provisioner == sched.NoProvisioner
	if s.VolumeBindingMode != nil && *s.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer && p.Annotations[sched.SelectedNode] == "" {
		c := is(at, "it gives a volume only when a pod that uses the claim is scheduled (WaitForFirstConsumer)")
		users := a.users(p)
		if len(users) == 0 {
			return c.as(is("", "no pod uses the claim")).help("make a pod that uses the claim %s: it gets its volume then", p.Name)
		}
		var all []*Cause
		for _, u := range users {
			all = append(all, a.pod(u))
		}
		c.as(gather(all)...)
		if byHand {
			c.as(a.byHand(p, s.Name))
		}
		return c
	}
	if byHand {
		return is(at, "nobody makes volumes of this class: they are made by hand").as(a.byHand(p, s.Name)).help("make a persistent volume of the class %s for it", s.Name)
	}
	c := is(at, "its provisioner, %s, has not made the volume yet", s.Provisioner)
	if e := a.last(p.UID, reasons("ProvisioningFailed", "FailedBinding")); e != nil {
		return c.as(is("", "it says: %s", oneLine(e.Message)).since(firstSeen(e))).help("mend what the provisioner %s says", s.Provisioner)
	}
	return c.help("see whether the provisioner %s runs, and its log", s.Provisioner)
}

// lost explains what became of a claim's volume.
func (a *asker) lost(p *corev1.PersistentVolumeClaim) *Cause {
	if p.Spec.VolumeName == "" {
		return is("", "it does not name its volume any more").help("the data are lost to it; delete the claim and make a new one")
	}
	at := "persistentvolume/" + p.Spec.VolumeName
	if v, k := get(a, core.PersistentVolume, "", p.Spec.VolumeName); k == there && v.Spec.ClaimRef != nil {
		r := v.Spec.ClaimRef
		if r.Namespace == p.Namespace && r.Name == p.Name {
			return is(at, "it belongs to an earlier claim of this name").
				help("if it is to be this claim's: take uid out of spec.claimRef of the volume %s", v.Name)
		}
		return is(at, "it belongs to the claim %s/%s", r.Namespace, r.Name).help("delete this claim and make a new one")
	}
	return is(at, "there is no such volume any more").
		help("the data are lost unless the volume is made again; delete the claim and make a new one")
}

// users are the pods that use a claim, or will.
func (a *asker) users(p *corev1.PersistentVolumeClaim) []*corev1.Pod {
	return slices.DeleteFunc(a.mounting(p), core.PodFinished)
}

// holders are the pods that keep a claim there: those on nodes, even if they have ended.
func (a *asker) holders(p *corev1.PersistentVolumeClaim) []*corev1.Pod {
	return slices.DeleteFunc(a.mounting(p), func(o *corev1.Pod) bool { return o.Spec.NodeName == "" })
}

func (a *asker) mounting(p *corev1.PersistentVolumeClaim) (out []*corev1.Pod) {
	pods, _ := list(a, core.Pod, p.Namespace)
	for _, o := range pods {
		if slices.ContainsFunc(o.Spec.Volumes, func(v corev1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == p.Name || v.Ephemeral != nil && o.Name+"-"+v.Name == p.Name
		}) {
			out = append(out, o)
		}
	}
	return out
}

// wanted explains why a claim does not get the volume that it names.
func (a *asker) wanted(p *corev1.PersistentVolumeClaim, name string) *Cause {
	v, k := get(a, core.PersistentVolume, "", name)
	me := "persistentvolume/" + name
	switch k {
	case missing:
		return is(me, "there is no such volume, which the claim names").help("make the volume %s, or make the claim anew without volumeName", name)
	case hidden:
		return is(me, "it is still to be bound to this volume")
	}
	if r := v.Spec.ClaimRef; r != nil && (r.Namespace != p.Namespace || r.Name != p.Name) {
		return is(me, "it belongs to the claim %s/%s", r.Namespace, r.Name).help("make the claim anew with another volume, or free this one")
	} else if r != nil && r.UID != "" && r.UID != p.UID {
		return is(me, "it belongs to an earlier claim of this name").
			help("if its data may be had by this claim: take uid out of spec.claimRef of the volume %s", name)
	}
	if u := core.VolumeUnsuited(v, p, sched.ClaimClass(p)); u != "" && v.Spec.ClaimRef == nil {
		return is(me, "%s", u).help("make the claim anew so that it suits the volume %s", name)
	}
	return is(me, "it is still to be bound to this volume")
}

// byHand explains why none of the volumes that are there does; nil if that is not known.
func (a *asker) byHand(p *corev1.PersistentVolumeClaim, class string) *Cause {
	all, ok := list(a, core.PersistentVolume, "")
	if !ok {
		return nil
	}
	c := is("", "no persistent volume that is free suits it")
	for _, v := range all {
		if v.Spec.ClaimRef != nil {
			r := v.Spec.ClaimRef
			switch mine := r.Namespace == p.Namespace && r.Name == p.Name && (r.UID == "" || r.UID == p.UID); {
			case mine:
				if u := core.VolumeLacks(v, p); u != "" {
					c.as(is("persistentvolume/"+v.Name, "it is meant for the claim, but %s", u))
				}
			case v.Status.Phase == corev1.VolumeReleased && core.VolumeClass(v) == class:
				c.as(is("persistentvolume/"+v.Name, "it still belongs to the claim %s/%s, which is gone", r.Namespace, r.Name).
					help("if its data may be had by others: take spec.claimRef out of the volume %s", v.Name))
			}
			continue
		}
		u := core.VolumeUnsuited(v, p, class)
		if u == "" && p.Spec.Selector != nil && !selects(p.Spec.Selector, v.Labels) {
			u = "the claim's selector does not select it"
		}
		if u != "" && len(c.Causes) < 5 {
			c.as(is("persistentvolume/"+v.Name, "%s", u))
		} else if u == "" {
			return is("persistentvolume/"+v.Name, "it suits, and is still to be bound")
		}
	}
	if len(all) == 0 {
		c.Text = "there are no persistent volumes"
	}
	return c
}
