package kinds_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/kinds"
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
	root := corpus(t)
	byKind := map[string]*api.Resource{}
	for _, d := range kinds.All {
		r := d.Def()
		byKind[r.GroupVersion().String()+"/"+r.Kind] = r
	}
	n := 0
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
			n += takeManifest(t, byKind, name, doc)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 400 {
		t.Errorf("only %d manifests were of a declared kind", n)
	}
}

func takeManifest(t *testing.T, byKind map[string]*api.Resource, file string, doc []byte) int {
	var m struct {
		metav1.TypeMeta `json:",inline"`
		Items           []map[string]any `json:"items"`
	}
	if yaml.Unmarshal(doc, &m) != nil {
		return 0
	}
	if strings.HasSuffix(m.Kind, "List") && m.Items != nil {
		n := 0
		for _, i := range m.Items {
			b, err := yaml.Marshal(i)
			if err != nil {
				t.Fatal(err)
			}
			n += takeManifest(t, byKind, file, b)
		}
		return n
	}
	r := byKind[m.APIVersion+"/"+m.Kind]
	if r == nil {
		return 0
	}
	t.Run(file+"/"+m.Kind, func(t *testing.T) {
		if strings.Contains(string(doc), "{{") {
			t.Skip("a template, not a manifest")
		}
		why, ok := wrong[filepath.ToSlash(file)]
		if !ok {
			why, ok = wrong[filepath.ToSlash(file)+"/"+m.Kind]
		}
		if ok {
			if got := refusal(r, doc); !strings.Contains(got, why) {
				t.Errorf("refused with %q, want %q", got, why)
			}
			return
		}
		stored(t, r, doc)
	})
	return 1
}
