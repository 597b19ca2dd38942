package aggregate

import (
	"context"
	"encoding/json"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// FrontProxy is the name in the certificate that the front proxies extension
// servers with.
const FrontProxy = "front-proxy-client"

// A Trust is what extension servers need to know to believe who asks them.
type Trust struct {
	ClientCA []byte // PEM: signs the certificates of clients
	FrontCA  []byte // PEM: signs the front proxy's
}

// trustName is the ConfigMap, in kube-system, where extension servers look.
const trustName = "extension-apiserver-authentication"

// data is the contents of the ConfigMap.
func (t Trust) data() map[string]string {
	list := func(s string) string {
		b, _ := json.Marshal([]string{s}) // plain data
		return string(b)
	}
	return map[string]string{
		"client-ca-file":                     string(t.ClientCA),
		"requestheader-client-ca-file":       string(t.FrontCA),
		"requestheader-allowed-names":        list(FrontProxy),
		"requestheader-username-headers":     list(headerUser),
		"requestheader-uid-headers":          list(headerUID),
		"requestheader-group-headers":        list(headerGroup),
		"requestheader-extra-headers-prefix": list(headerExtra),
	}
}

// keepTrust keeps the ConfigMap as it should be until ctx ends.
func (a *Aggregator) keepTrust(ctx context.Context) {
	fail := func(err error) { a.Log.Warn("What extension API servers trust cannot be published", "err", err) }
	for range core.ConfigMap.Follow(ctx, a.h, metav1.NamespaceSystem, api.WithField("metadata.name", trustName), fail) {
		if err := a.settleTrust(ctx); err != nil && ctx.Err() == nil {
			fail(err)
		}
	}
}

func (a *Aggregator) settleTrust(ctx context.Context) error {
	want := a.Trust.data()
	have, err := core.ConfigMap.Get(ctx, a.h, metav1.NamespaceSystem, trustName)
	if apierrors.IsNotFound(err) {
		_, err = core.ConfigMap.Create(ctx, a.h, &corev1.ConfigMap{Data: want,
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: trustName}})
	} else if err == nil {
		next := api.Clone(have)
		if next.Data == nil {
			next.Data = map[string]string{}
		}
		maps.Copy(next.Data, want)
		if maps.Equal(next.Data, have.Data) {
			return nil
		}
		_, err = core.ConfigMap.Update(ctx, a.h, next)
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil // the change comes by
	}
	return err
}
