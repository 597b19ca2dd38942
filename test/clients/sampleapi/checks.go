package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/sample-apiserver/pkg/apis/wardle/v1alpha1"
	"k8s.io/sample-apiserver/pkg/apis/wardle/v1beta1"
	wardle "k8s.io/sample-apiserver/pkg/generated/clientset/versioned"
	"k8s.io/sample-apiserver/pkg/generated/informers/externalversions"
)

// discovery looks for the group among the others.
func (w *world) discovery(ctx context.Context) error {
	return until(ctx, "the group", func() error {
		groups, lists, err := w.core.Discovery().ServerGroupsAndResources()
		if err != nil {
			return err
		}
		for _, g := range groups {
			if g.Name == group && (len(g.Versions) != 2 || g.PreferredVersion.Version != "v1beta1") {
				return fmt.Errorf("versions %+v", g)
			}
		}
		var names []string
		for _, l := range lists {
			if strings.HasPrefix(l.GroupVersion, group+"/") {
				for _, r := range l.APIResources {
					names = append(names, l.GroupVersion+"/"+r.Name)
				}
			}
		}
		for _, want := range []string{"v1alpha1/flunders", "v1alpha1/fischers", "v1beta1/flunders"} {
			if !strings.Contains(strings.Join(names, " "), group+"/"+want) {
				return fmt.Errorf("no %s in %v", want, names)
			}
		}
		return nil
	})
}

// schemas reads OpenAPI v3 and v2.
func (w *world) schemas(ctx context.Context) error {
	const flunder = "com.k8s.io.sample-apiserver.pkg.apis.wardle.v1alpha1.Flunder"
	return until(ctx, "the schemas", func() error {
		paths, err := w.core.Discovery().OpenAPIV3().Paths()
		if err != nil {
			return err
		}
		gv := paths["apis/"+group+"/v1alpha1"]
		if gv == nil {
			return errors.New("none of the group in v3")
		}
		b, err := gv.Schema("application/json")
		if err != nil {
			return err
		}
		var doc struct {
			Components struct{ Schemas map[string]json.RawMessage }
			Paths      map[string]json.RawMessage
		}
		if err := json.Unmarshal(b, &doc); err != nil {
			return err
		}
		if doc.Paths["/apis/"+group+"/v1alpha1/namespaces/{namespace}/flunders"] == nil || !bytes.Contains(b, []byte(`.Flunder"`)) {
			return fmt.Errorf("v3: %.300s", b)
		}
		two, err := w.core.Discovery().OpenAPISchema()
		if err != nil {
			return err
		}
		for _, d := range two.GetDefinitions().GetAdditionalProperties() {
			if strings.HasSuffix(d.GetName(), "wardle.v1alpha1.Flunder") {
				return nil
			}
		}
		return fmt.Errorf("v2 has no %s", flunder)
	})
}

func flunder(name string) *v1alpha1.Flunder {
	return &v1alpha1.Flunder{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.FlunderSpec{Reference: "x"}}
}

// objects writes, reads and watches through the cluster.
func (w *world) objects(ctx context.Context) error {
	flunders := w.wardle.WardleV1alpha1().Flunders(ns)
	made, err := flunders.Create(ctx, flunder("one"), metav1.CreateOptions{FieldManager: "sampleapi"})
	if err != nil {
		return err
	}
	if made.UID == "" || made.Spec.ReferenceType == nil {
		return fmt.Errorf("made %+v", made)
	}
	watching, err := flunders.Watch(ctx, metav1.ListOptions{ResourceVersion: made.ResourceVersion})
	if err != nil {
		return err
	}
	defer watching.Stop()
	if _, err := flunders.Create(ctx, flunder("one"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("made twice: %w", err)
	}
	made.Spec.Reference = "y"
	if made, err = flunders.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if made, err = flunders.Patch(ctx, "one", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	apply := []byte(`{"apiVersion":"wardle.example.com/v1alpha1","kind":"Flunder","metadata":{"name":"one","labels":{"c":"d"}}}`)
	if made, err = flunders.Patch(ctx, "one", types.ApplyPatchType, apply, metav1.PatchOptions{FieldManager: "applier"}); err != nil {
		return err
	}
	if made.Labels["a"] != "b" || made.Labels["c"] != "d" || made.Spec.Reference != "y" {
		return fmt.Errorf("changed to %+v", made)
	}
	l, err := flunders.List(ctx, metav1.ListOptions{LabelSelector: "a=b", Limit: 1})
	if err != nil || len(l.Items) != 1 || l.Items[0].UID != made.UID {
		return fmt.Errorf("listed %+v: %w", l, err)
	}
	if err := flunders.Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		return err
	}
	var seen []string
	for len(seen) < 4 {
		select {
		case e, open := <-watching.ResultChan():
			if !open {
				return fmt.Errorf("the watch ended after %v", seen)
			}
			seen = append(seen, string(e.Type))
		case <-ctx.Done():
			return fmt.Errorf("the watch has %v only", seen)
		}
	}
	if w.warnings.WarningCount() == 0 { // the version is deprecated
		return errors.New("a warning of the server did not come through")
	}
	if got := strings.Join(seen, " "); got != "MODIFIED MODIFIED MODIFIED DELETED" {
		return fmt.Errorf("the watch has %s", got)
	}
	return nil
}

// table asks for what kubectl shows, which the server makes itself.
func (w *world) table(ctx context.Context) error {
	if _, err := w.wardle.WardleV1beta1().Flunders(ns).Create(ctx, &v1beta1.Flunder{ObjectMeta: metav1.ObjectMeta{Name: "shown"}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	b, err := w.wardle.WardleV1beta1().RESTClient().Get().Namespace(ns).Resource("flunders").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Raw()
	if err != nil {
		return err
	}
	var t metav1.Table
	if err := json.Unmarshal(b, &t); err != nil {
		return err
	}
	if t.Kind != "Table" || len(t.Rows) != 1 || fmt.Sprint(t.Rows[0].Cells[0]) != "shown" {
		return fmt.Errorf("%s", b)
	}
	return nil
}

func (w *world) versions(ctx context.Context) error {
	if _, err := w.wardle.WardleV1alpha1().Flunders(ns).Create(ctx, flunder("both"), metav1.CreateOptions{}); err != nil {
		return err
	}
	b, err := w.wardle.WardleV1beta1().Flunders(ns).Get(ctx, "both", metav1.GetOptions{})
	if err == nil && (b.Spec.FlunderReference != "x" || b.Spec.ReferenceType != v1beta1.FlunderReferenceType) {
		err = fmt.Errorf("as beta %+v", b.Spec)
	}
	return err
}

func (w *world) informer(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	factory := externalversions.NewSharedInformerFactoryWithOptions(w.wardle, 0, externalversions.WithNamespace(ns))
	lister := factory.Wardle().V1beta1().Flunders().Lister()
	factory.Wardle().V1beta1().Flunders().Informer()
	factory.Start(ctx.Done())
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("the informer of %v did not come", kind)
		}
	}
	if _, err := w.wardle.WardleV1alpha1().Flunders(ns).Create(ctx, flunder("news"), metav1.CreateOptions{}); err != nil {
		return err
	}
	return until(ctx, "the informer", func() error {
		_, err := lister.Flunders(ns).Get("news")
		return err
	})
}

// kubectl does what a person would.
func (w *world) kubectl(ctx context.Context) error {
	program := os.Getenv("SAMPLEAPI_KUBECTL")
	if program == "" {
		fmt.Println("SKIPPED kubectl: SAMPLEAPI_KUBECTL is not set")
		return nil
	}
	const manifest = `{"apiVersion":"wardle.example.com/v1beta1","kind":"Flunder","metadata":{"name":"by-hand","namespace":"wardle"},"spec":{"referenceType":"Flunder","flunderReference":"x"}}`
	for _, step := range []struct{ args, in, want string }{
		{"api-resources --api-group=wardle.example.com", "", "flunders"},
		{"explain flunder.spec", "", "flunderReference"},
		{"explain flunder --recursive", "", "fischerReference"},
		{"apply -f -", manifest, "flunder.wardle.example.com/by-hand created"},
		{"apply -f -", manifest, "unchanged"},
		{"apply --server-side --force-conflicts -f -", manifest, "serverside-applied"},
		{"get flunders -n wardle", "", "by-hand"},
		{"get flunder by-hand -n wardle -o yaml", "", "flunderReference: x"},
		{"label flunder by-hand -n wardle seen=yes", "", "labeled"},
		{"describe flunder by-hand -n wardle", "", "seen=yes"},
		{"auth can-i create flunders.wardle.example.com -n wardle", "", "yes"},
		{"delete flunder by-hand -n wardle", "", "deleted"},
		{"wait --for=condition=Available apiservice/v1beta1.wardle.example.com --timeout=5s", "", "condition met"},
	} {
		cmd := exec.CommandContext(ctx, program, strings.Fields(step.args)...)
		cmd.Stdin = strings.NewReader(step.in)
		cmd.Env = append(os.Environ(), "HOME="+w.dir)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), step.want) {
			return fmt.Errorf("kubectl %s: %w\n%s\nwant %q", step.args, err, out, step.want)
		}
	}
	return nil
}

// admission is the server's own: a Fischer forbids names.
func (w *world) admission(ctx context.Context) error {
	f := &v1alpha1.Fischer{ObjectMeta: metav1.ObjectMeta{Name: "fischer"}, DisallowedFlunders: []string{"bad"}}
	if _, err := w.wardle.WardleV1alpha1().Fischers().Create(ctx, f, metav1.CreateOptions{}); err != nil {
		return err
	}
	return until(ctx, "the name is forbidden", func() error {
		_, err := w.wardle.WardleV1alpha1().Flunders(ns).Create(ctx, flunder("bad"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "this name may not be used") {
			return nil
		}
		return fmt.Errorf("it is not: %v", err)
	})
}

// identity asks as others: both servers must know who, and may refuse.
func (w *world) identity(ctx context.Context) error {
	as := func(user string, groups ...string) *wardle.Clientset {
		config := rest.CopyConfig(w.config)
		config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups, Extra: map[string][]string{"example.com/colour": {"red"}}}
		// Whoever asks cannot say who they are in the words of the front proxy.
		config.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				r = r.Clone(r.Context())
				r.Header.Set("X-Remote-User", "system:admin")
				r.Header.Set("X-Remote-Group", "system:masters")
				return next.RoundTrip(r)
			})
		})
		return wardle.NewForConfigOrDie(config)
	}
	_, err := as("ann").WardleV1alpha1().Flunders(ns).List(ctx, metav1.ListOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `"ann"`) {
		return fmt.Errorf("ann, who has no rights: %w", err)
	}
	_, err1 := w.core.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "flunders"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{"flunders"}, Verbs: []string{"list"}}}}, metav1.CreateOptions{})
	err2 := w.bind(ctx, "flunders", "flunders", rbacv1.Subject{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "gardeners"})
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	err = until(ctx, "a member of the group may", func() error {
		_, err := as("bob", "gardeners", "walkers").WardleV1alpha1().Flunders(ns).List(ctx, metav1.ListOptions{LabelSelector: "marked=bob"})
		return err
	})
	if err != nil {
		return err
	}
	return w.audited(ctx)
}

// audited reads in the server's own audit log who it was that asked.
func (w *world) audited(ctx context.Context) error {
	return until(ctx, "the audit log", func() error {
		b, err := os.ReadFile(w.file("audit.log"))
		if err != nil {
			return err
		}
		for line := range bytes.Lines(b) {
			var e struct {
				RequestURI string
				User       struct {
					Username string
					Groups   []string
					Extra    map[string][]string
				}
			}
			if json.Unmarshal(line, &e) != nil || !strings.Contains(e.RequestURI, "marked%3Dbob") {
				continue
			}
			if u := e.User; u.Username != "bob" || fmt.Sprint(u.Groups) != "[gardeners walkers system:authenticated]" || fmt.Sprint(u.Extra["example.com/colour"]) != "[red]" {
				return fmt.Errorf("it was asked by %+v", u)
			}
			return nil
		}
		return errors.New("it does not have the request")
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// direct asks the server past the cluster: it asks the cluster who that is.
func (w *world) direct(ctx context.Context) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.backend.ca)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "api.wardle.svc"}}, Timeout: 10 * time.Second}
	ask := func(headers map[string]string) (int, string, error) {
		url := "https://" + net.JoinHostPort(w.address, strconv.Itoa(w.backend.port)) + "/apis/" + group + "/v1alpha1/namespaces/" + ns + "/flunders"
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, "", err
		}
		for k, v := range headers {
			req.Header.Set(k, v)
		}
		resp, err := c.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}
	if code, body, err := ask(map[string]string{"X-Remote-User": "system:admin", "X-Remote-Group": "system:masters"}); code != http.StatusForbidden || !strings.Contains(body, "system:anonymous") {
		return fmt.Errorf("the word of a stranger: %d %s: %w", code, body, err)
	}
	_, err := w.core.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "reader"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	token, err := w.token(ctx, "reader")
	if err != nil {
		return err
	}
	bearer := map[string]string{"Authorization": "Bearer " + token}
	if code, body, err := ask(bearer); code != http.StatusForbidden || !strings.Contains(body, "system:serviceaccount:wardle:reader") {
		return fmt.Errorf("an account without rights: %d %s: %w", code, body, err)
	}
	if err := w.bind(ctx, "flunders-reader", "flunders", rbacv1.Subject{Kind: "ServiceAccount", Namespace: ns, Name: "reader"}); err != nil {
		return err
	}
	return until(ctx, "an account with rights", func() error { // a refusal is remembered for some seconds
		code, body, err := ask(bearer)
		if code == http.StatusOK && strings.Contains(body, "FlunderList") {
			return nil
		}
		return fmt.Errorf("%d %s: %v", code, body, err)
	})
}

// garbage is what a flunder becomes when its owner, of the cluster's own server, goes.
func (w *world) garbage(ctx context.Context) error {
	owner, err := w.core.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	f := flunder("owned")
	f.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID}}
	if _, err := w.wardle.WardleV1alpha1().Flunders(ns).Create(ctx, f, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := w.core.CoreV1().ConfigMaps(ns).Delete(ctx, "owner", metav1.DeleteOptions{}); err != nil {
		return err
	}
	return w.gone(ctx, "owned")
}

func (w *world) gone(ctx context.Context, name string) error {
	return until(ctx, name+" is gone", func() error {
		_, err := w.wardle.WardleV1alpha1().Flunders(ns).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %v", err)
	})
}

// namespace ends with what the server has in it.
func (w *world) namespace(ctx context.Context) error {
	const name = "wardle-too"
	if _, err := w.core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	err := until(ctx, "a flunder in a new namespace", func() error {
		_, err := w.wardle.WardleV1alpha1().Flunders(name).Create(ctx, flunder("there"), metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	if err := w.core.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return until(ctx, "the namespace is gone", func() error {
		if _, err := w.core.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %v", err)
		}
		l, err := w.wardle.WardleV1alpha1().Flunders(name).List(ctx, metav1.ListOptions{LabelSelector: labels.Everything().String()})
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("in it there is %v", l.Items)
		}
		return err
	})
}

// withdrawn takes the services back.
func (w *world) withdrawn(ctx context.Context) error {
	for _, version := range []string{"v1alpha1", "v1beta1"} {
		if err := w.services.ApiregistrationV1().APIServices().Delete(ctx, version+"."+group, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return until(ctx, "the group is gone", func() error {
		groups, err := w.core.Discovery().ServerGroups()
		if err != nil {
			return err
		}
		for _, g := range groups.Groups {
			if g.Name == group {
				return errors.New("it is in discovery")
			}
		}
		if _, err := w.wardle.WardleV1alpha1().Flunders(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("a list: %v", err)
		}
		return nil
	})
}
