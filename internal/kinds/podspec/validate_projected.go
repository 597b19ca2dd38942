package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// A projection is what the check of one source must know of the others: the
// paths that are taken.
type projection struct {
	*checker
	at    *field.Path // of the volume's source
	paths []string
}

// claim takes a path, which what names. Tokens do not take theirs: others may
// be in their way, see [WarnPod].
func (p *projection) claim(path, what string) {
	if path == "" {
		return
	}
	if slices.Contains(p.paths, path) {
		p.add(field.Invalid(p.at, what, "conflicting duplicate paths"))
	}
	p.paths = append(p.paths, path)
}

func (v *checker) projected(s *corev1.ProjectedVolumeSource, at *field.Path) {
	v.fileMode(s.DefaultMode, at, "defaultMode")
	v.userID(s.DefaultUser, at, "defaultUser")
	p := projection{checker: v, at: at}
	for i := range s.Sources {
		src, path := &s.Sources[i], at.Child("sources").Index(i)
		n := 0
		if x := src.Secret; x != nil {
			n++
			p.keys(x.Name, x.Items, path.Child("secret"))
		}
		if x := src.ConfigMap; x != nil {
			n++
			p.keys(x.Name, x.Items, path.Child("configMap"))
		}
		if x := src.DownwardAPI; x != nil {
			n++
			for j := range x.Items {
				v.downward(&x.Items[j], path.Child("downwardAPI"))
				p.claim(x.Items[j].Path, x.Items[j].Path)
			}
		}
		if x := src.ServiceAccountToken; x != nil {
			n++
			p.token(x, path.Child("serviceAccountToken"))
		}
		if x := src.ClusterTrustBundle; x != nil {
			n++
			p.trustBundle(x, path.Child("clusterTrustBundle"))
		}
		if x := src.PodCertificate; x != nil {
			n++
			p.certificate(x, path.Child("podCertificate"))
		}
		if n > 1 {
			v.add(field.Forbidden(path, "may not specify more than 1 volume type per source"))
		}
	}
}

func (p *projection) keys(name string, items []corev1.KeyToPath, at *field.Path) {
	p.given(name, at, "name")
	p.keyPaths(items, at)
	for _, k := range items {
		p.claim(k.Path, name)
	}
}

func (p *projection) token(x *corev1.ServiceAccountTokenProjection, at *field.Path) {
	switch n := x.ExpirationSeconds; {
	case n == nil:
		p.add(field.Required(at.Child("expirationSeconds"), ""))
	case *n < 10*60:
		p.add(field.Invalid(at.Child("expirationSeconds"), *n, "may not specify a duration less than 10 minutes"))
	case *n > 1<<32:
		p.add(field.Invalid(at.Child("expirationSeconds"), *n, "may not specify a duration larger than 2^32 seconds"))
	}
	if p.given(x.Path, p.at, "path"); x.Path != "" {
		p.add(localPath(x.Path, p.at.Child("path"))...)
	}
	p.userID(x.User, at, "user")
}

func (p *projection) trustBundle(x *corev1.ClusterTrustBundleProjection, at *field.Path) {
	switch {
	case x.Name != nil && x.SignerName != nil:
		p.add(field.Invalid(at, x, "only one of name and signerName may be used"))
	case x.Name != nil:
		if *x.Name == "" {
			p.add(field.Required(at.Child("name"), "must be a valid object name"))
		}
		for _, msg := range trustBundleName(*x.Name) {
			p.add(field.Invalid(at.Child("name"), *x.Name, "not a valid clustertrustbundlename: "+msg))
		}
		if x.LabelSelector != nil {
			p.add(field.Invalid(at.Child("labelSelector"), x.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case x.SignerName != nil:
		if *x.SignerName == "" {
			p.add(field.Required(at.Child("signerName"), "must be a valid signer name"))
		}
		p.add(validate.SignerName(*x.SignerName, at.Child("signerName"))...)
		p.add(validate.Selector(x.LabelSelector, at.Child("labelSelector"))...)
	default:
		p.add(field.Required(at, "either name or signerName must be specified"))
	}
	p.given(x.Path, at, "path")
	p.add(localPath(x.Path, at.Child("path"))...)
	p.claim(x.Path, x.Path)
	p.userID(x.User, at, "user")
}

// trustBundleName is what is wrong with the name of a ClusterTrustBundle. That
// of a signer's begins with the signer: "example.com:foo:name".
func trustBundleName(name string) []string {
	if i := strings.LastIndexByte(name, ':'); i >= 0 {
		name = name[i+1:]
	}
	return apivalidation.NameIsDNSSubdomain(name, false)
}

const (
	hour = 60 * 60
)

func (p *projection) certificate(x *corev1.PodCertificateProjection, at *field.Path) {
	p.add(validate.SignerName(x.SignerName, at.Child("signerName"))...)
	known(p.checker, &x.KeyType, at, "keyType", "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")
	if n := x.MaxExpirationSeconds; n != nil {
		longest := int32(91 * 24 * hour)
		if domain, _, _ := strings.Cut(x.SignerName, "/"); domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
			longest = 24 * hour
		}
		if *n < hour {
			p.add(field.Invalid(at.Child("maxExpirationSeconds"), *n, fmt.Sprintf("if provided, maxExpirationSeconds must be >= %d", hour)))
		}
		if *n > longest {
			p.add(field.Invalid(at.Child("maxExpirationSeconds"), *n, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", longest)))
		}
	}
	none := true
	for _, f := range [...]struct{ name, path string }{{"credentialBundlePath", x.CredentialBundlePath}, {"keyPath", x.KeyPath},
		{"certificateChainPath", x.CertificateChainPath}} {
		if f.path != "" {
			none = false
			p.add(localPath(f.path, at.Child(f.name))...)
			p.claim(f.path, f.path)
		}
	}
	if none {
		p.add(field.Required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
	p.userAnnotations(x.UserAnnotations, at.Child("userAnnotations"))
	p.userID(x.User, at, "user")
}

// userAnnotations checks what is told the signer.
func (p *projection) userAnnotations(set map[string]string, at *field.Path) {
	if len(set) == 0 {
		return
	}
	p.add(apivalidation.ValidateAnnotations(set, at)...)
	for k := range set {
		if !strings.Contains(k, "/") {
			p.add(field.Invalid(at, k, "must be a domain-prefixed key (such as \"acme.io/foo\")"))
		}
	}
}
