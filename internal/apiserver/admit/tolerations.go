package admit

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
)

// defaultTolerations lets a pod stay for five minutes on a node that is not
// ready or cannot be reached, unless it says otherwise.
var defaultTolerations = &Step{
	Name: "DefaultTolerationSeconds", For: []string{"pods"}, Verbs: []api.Verb{api.Create},
	Mutate: func(_ context.Context, a *Attributes) error {
		spec := &a.New.(*corev1.Pod).Spec
		for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
			if !tolerates(spec.Tolerations, key) {
				spec.Tolerations = append(spec.Tolerations, corev1.Toleration{
					Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(300)),
				})
			}
		}
		return nil
	},
}

func tolerates(list []corev1.Toleration, key string) bool {
	for _, t := range list {
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}
