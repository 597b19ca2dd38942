package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/validate"
)

type bundle = certificatesv1.ClusterTrustBundle

// maxBundle is how many bytes of certificates a bundle may hold.
const maxBundle = 1 << 20

// ClusterTrustBundle is a set of certificate authorities, perhaps those of a signer.
var ClusterTrustBundle = &api.Kind[*bundle]{
	API: "certificates.k8s.io/v1", Resource: "clustertrustbundles", Scope: api.Cluster,
	Whole: true,
	Columns: []api.Column[*bundle]{
		column.Name(column.Plain[*bundle]),
		column.Doc(api.Col("SignerName", func(b *bundle) string { return orNone(b.Spec.SignerName) }),
			certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"]),
	},
	Fields:    map[string]func(*bundle) string{"spec.signerName": func(b *bundle) string { return b.Spec.SignerName }},
	Name:      pathvalidation.ValidatePathSegmentName, // the rest depends on the signer
	Validate:  validateBundle,
	Versioned: true,
}

func validateBundle(b, old *bundle) (errs field.ErrorList) {
	at := specPath.Child("signerName")
	if old == nil {
		errs = validate.Messages(field.NewPath("metadata", "name"), b.Name, bundleName(b.Name, b.Spec.SignerName))
	} else {
		errs = validate.Same(b.Spec.SignerName, old.Spec.SignerName, at)
	}
	if b.Spec.SignerName != "" {
		errs = append(errs, validate.SignerName(b.Spec.SignerName, at)...)
	}
	if old == nil || old.Spec.TrustBundle != b.Spec.TrustBundle {
		errs = append(errs, validateAnchors(b.Spec.TrustBundle, specPath.Child("trustBundle"))...)
	}
	return errs
}

// bundleName checks that a bundle is named after its signer.
func bundleName(name, signer string) []string {
	switch {
	case name == "":
		return nil // refused already
	case signer == "" && strings.Contains(name, ":"):
		return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
	case signer == "":
		return apivalidation.NameIsDNSSubdomain(name, false)
	}
	prefix := strings.ReplaceAll(signer, "/", ":") + ":"
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix)}
	}
	return apivalidation.NameIsDNSSubdomain(rest, false)
}

// validateAnchors checks that data is certificates of authorities, each once.
func validateAnchors(data string, at *field.Path) (errs field.ErrorList) {
	if len(data) > maxBundle {
		return field.ErrorList{field.TooLong(at, "", maxBundle)}
	}
	bad := func(format string, args ...any) {
		errs = append(errs, field.Invalid(at, "<value omitted>", fmt.Sprintf(format, args...)))
	}
	where := map[string][]int{}
	var order []string
	rest := []byte(data)
	for i := 0; ; i++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if why := notAnchor(b); why != "" {
			bad("entry %d %s", i, why)
			continue
		}
		k := string(b.Bytes)
		if where[k] == nil {
			order = append(order, k)
		}
		where[k] = append(where[k], i)
	}
	if len(errs) > 0 {
		return errs
	}
	if len(order) == 0 {
		bad("at least one trust anchor must be provided")
	}
	for _, k := range order {
		if len(where[k]) > 1 {
			bad("duplicate trust anchor (indices %v)", where[k])
		}
	}
	return errs
}

// notAnchor says why a block is not the certificate of an authority.
func notAnchor(b *pem.Block) string {
	if b.Type != certificateBlock {
		return "has bad block type: " + b.Type
	}
	if len(b.Headers) > 0 {
		return "has PEM block headers"
	}
	c, err := x509.ParseCertificate(b.Bytes)
	switch {
	case err != nil:
		return "does not parse as X.509"
	case !c.IsCA:
		return "does not have the CA bit set"
	case !c.BasicConstraintsValid:
		return "has invalid basic constraints"
	}
	return ""
}
