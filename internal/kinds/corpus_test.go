package kinds_test

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/store/memory"
)

// corpus is the folder of real manifests: where PROA_CORPUS says, or beside the repository.
func corpus(t *testing.T) string {
	if dir := os.Getenv("PROA_CORPUS"); dir != "" {
		return dir
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for dir := wd; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "shared", "corpus")); err == nil {
			return filepath.Join(dir, "shared", "corpus")
		}
	}
	t.Skip("needs a folder of manifests: set PROA_CORPUS")
	return ""
}

// wrong are the published manifests that Kubernetes refuses too, or those of
// their kinds that follow the name, and why: overlays of kustomize, things to
// fill in, and mistakes.
var wrong = map[string]string{
	"examples/_archived/openshift-origin/etcd-controller.yaml":                                      `key "selector" already set`,
	"examples/_archived/openshift-origin/etcd-discovery-controller.yaml":                            `key "selector" already set`,
	"examples/_archived/openshift-origin/openshift-controller.yaml":                                 `key "selector" already set`,
	"examples/_archived/persistent-volume-provisioning/quobyte/quobyte-admin-secret.yaml":           `key "type" already set`,
	"examples/_archived/sysdig-cloud/sysdig-rc.yaml":                                                "spec.selector: Required value",
	"examples/_archived/volumes/aws_ebs/aws-ebs-web.yaml":                                           `protocol: Unsupported value: "tcp"`,
	"examples/_archived/volumes/cinder/cinder-web.yaml":                                             `protocol: Unsupported value: "tcp"`,
	"examples/_archived/volumes/fibre_channel/fc.yaml":                                              "cannot unmarshal string",
	"examples/_archived/volumes/rbd/rbd.yaml":                                                       `unknown field "imagefeatures"`,
	"examples/_archived/volumes/scaleio/pod.yaml":                                                   `unknown field "protectionDoamin"`,
	"examples/_archived/volumes/scaleio/sc-pvc.yaml":                                                `key "storageClassName" already set`,
	"examples/_archived/volumes/storageos/storageos-pod.yaml":                                       `unknown field "pool"`,
	"examples/_archived/volumes/storageos/storageos-pv.yaml":                                        `unknown field "secretName"`,
	"ingress-nginx/deploy/grafana/deployment.yaml":                                                  "spec.selector: Required value",
	"ingress-nginx/deploy/prometheus/deployment.yaml":                                               "spec.selector: Required value",
	"ingress-nginx/docs/examples/customization/ssl-dh-param/ssl-dh-param.yaml":                      "illegal base64",
	"ingress-nginx/docs/examples/auth/oauth-external-auth/oauth2-proxy.yaml/Ingress":                "__INGRESS_HOST__",
	"ingress-nginx/docs/examples/auth/oauth-external-auth/vouch-proxy.yaml/Ingress":                 "__INGRESS_HOST__",
	"ingress-nginx/docs/examples/docker-registry/ingress-with-tls.yaml":                             "<your domain>",
	"ingress-nginx/docs/examples/docker-registry/ingress-without-tls.yaml":                          "<your domain>",
	"metrics-server/manifests/base/deployment.yaml":                                                 "spec.selector: Required value",
	"metrics-server/manifests/components/autoscale/patch.yaml":                                      `unknown field "$patch"`,
	"metrics-server/manifests/components/high-availability/patch.yaml":                              "spec.selector: Required value",
	"microservices-demo/kustomize/components/without-loadgenerator/delete-loadgenerator.patch.yaml": `unknown field "$patch"`,
}

// refusal is why the object in doc cannot be created, or "".
func refusal(r *api.Resource, doc []byte) string {
	o := r.New()
	if err := yaml.UnmarshalStrict(doc, o); err != nil {
		return err.Error()
	}
	if errs := create(r, o); len(errs) > 0 {
		return errs.ToAggregate().Error()
	}
	return ""
}

// TestCorpus takes every published manifest of a kind that is declared.
func TestCorpus(t *testing.T) {
	n := 0
	published(t, func(m manifest) {
		n++
		t.Run(m.file+"/"+m.kind.Kind, func(t *testing.T) {
			if m.template {
				t.Skip("a template, not a manifest")
			}
			if m.wrong != "" {
				if got := refusal(m.kind, m.doc); !strings.Contains(got, m.wrong) {
					t.Errorf("refused with %q, want %q", got, m.wrong)
				}
				return
			}
			stored(t, m.kind, m.doc)
		})
	})
	if n < 400 {
		t.Errorf("only %d manifests were of a declared kind", n)
	}
}

// A manifest is a published object of a declared kind.
type manifest struct {
	file     string // below the corpus
	kind     *api.Resource
	doc      []byte
	wrong    string // why it is refused, if it is
	template bool   // of helm, or another: no manifest yet
}

// published calls f with every manifest of the corpus.
func published(t *testing.T, f func(manifest)) {
	t.Helper()
	root := corpus(t)
	byKind := map[string]*api.Resource{}
	for _, d := range kinds.All {
		r := d.Def()
		byKind[r.GroupVersion().String()+"/"+r.Kind] = r
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(".yaml.yml.json", filepath.Ext(path)) || filepath.Ext(path) == "" {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		docs := yamlutil.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
		for {
			doc, err := docs.Read()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(root, path)
			readManifest(t, byKind, filepath.ToSlash(name), doc, f)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func readManifest(t *testing.T, byKind map[string]*api.Resource, file string, doc []byte, f func(manifest)) {
	var m struct {
		metav1.TypeMeta `json:",inline"`
		Items           []map[string]any `json:"items"`
	}
	if yaml.Unmarshal(doc, &m) != nil {
		return
	}
	if strings.HasSuffix(m.Kind, "List") && m.Items != nil {
		for _, i := range m.Items {
			b, err := yaml.Marshal(i)
			if err != nil {
				t.Fatal(err)
			}
			readManifest(t, byKind, file, b, f)
		}
		return
	}
	r := byKind[m.APIVersion+"/"+m.Kind]
	if r == nil {
		return
	}
	why, ok := wrong[file]
	if !ok {
		why = wrong[file+"/"+m.Kind]
	}
	f(manifest{file, r, doc, why, strings.Contains(string(doc), "{{")})
}

// unapplicable are those that can be created but not applied, in Kubernetes
// neither, and why.
var unapplicable = map[string]string{
	"ingress-nginx/deploy/static/provider/aws/nlb-with-tls-termination/deploy.yaml/Deployment": `ports: duplicate entries for key [containerPort=80,protocol="TCP"]`,
	"ingress-nginx/docs/examples/auth/oauth-external-auth/vouch-proxy.yaml/Deployment":         `value: expected string, got`,
}

// TestCorpusApplied takes every published manifest by server-side apply, as
// "kubectl apply --server-side" sends it, with all that is admitted on the way. A
// second apply changes nothing, and what it would make is what is there ("kubectl
// diff" is empty).
func TestCorpusApplied(t *testing.T) {
	n := 0
	published(t, func(m manifest) {
		if m.template || m.wrong != "" || m.kind.Virtual {
			return
		}
		n++
		t.Run(m.file+"/"+m.kind.Kind, func(t *testing.T) { applied(t, m) })
	})
	if n < 400 {
		t.Errorf("only %d manifests were applied", n)
	}
}

func applied(t *testing.T, m manifest) {
	e := memory.New(nil)
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	defer s.Close()
	var u struct {
		metav1.ObjectMeta `json:"metadata"`
	}
	if err := yaml.Unmarshal(m.doc, &u); err != nil {
		t.Fatal(err)
	}
	if u.Name == "" {
		t.Skip("only a name that is generated: it cannot be applied")
	}
	req := api.Request{Verb: api.Patch, Resource: m.kind, Name: u.Name, Patch: types.ApplyYAMLPatchType, Body: m.doc,
		Options: api.Options{FieldManager: "kubectl", FieldValidation: "Strict"}}
	if m.kind.Scope == api.Namespaced {
		req.Namespace = cmp.Or(u.Namespace, "default")
	}
	send := func(dry bool) (api.Object, int64) {
		r := req
		r.Options.DryRun = dry
		resp, err := s.Handle(t.Context(), &r)
		if why := unapplicable[m.file+"/"+m.kind.Kind]; why != "" {
			if err == nil || !strings.Contains(err.Error(), why) {
				t.Fatalf("refused with %v, want %q", err, why)
			}
			t.SkipNow()
		}
		if err != nil {
			t.Fatal(err)
		}
		return resp.Item.Object(), int64(resp.Item.Revision)
	}
	made, first := send(false)
	live, second := send(false)
	if first != second {
		t.Errorf("a second apply wrote revision %d after %d: %s", second, first, diff(t, made, live))
	}
	merged, _ := send(true)
	if d := diff(t, live, merged); d != "" {
		t.Errorf("a third would change %s", d)
	}
}

// diff is the merge patch from a to b, "" if they are the same.
func diff(t *testing.T, a, b api.Object) string {
	t.Helper()
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	p, err := jsonpatch.CreateMergePatch(x, y)
	if err != nil {
		t.Fatal(err)
	}
	if string(p) == "{}" {
		return ""
	}
	return string(p)
}
