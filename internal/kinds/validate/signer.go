package validate

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// SignerName checks the name of a signer of certificates: a domain and a path.
func SignerName(name string, path *field.Path) (errs field.ErrorList) {
	const domainMax = validation.DNS1123SubdomainMaxLength
	const nameMax = 2*validation.DNS1123SubdomainMaxLength + validation.DNS1123LabelMaxLength + 2
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	domain, rest, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(rest, "/") {
		return field.ErrorList{field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	if len(domain) > domainMax {
		errs = append(errs, field.TooLong(path, domain, domainMax))
	}
	firstBad := func(part string, rule func(string) []string) {
		for _, label := range strings.Split(part, ".") {
			if msgs := rule(label); len(msgs) > 0 {
				for _, m := range msgs {
					errs = append(errs, field.Invalid(path, part, fmt.Sprintf("validating label %q: %s", label, m)))
				}
				return
			}
		}
	}
	firstBad(domain, validation.IsDNS1123Label)
	if !strings.Contains(domain, ".") {
		errs = append(errs, field.Invalid(path, domain, "should be a domain with at least two segments separated by dots"))
	}
	firstBad(rest, validation.IsDNS1123Subdomain)
	if len(name) > nameMax {
		errs = append(errs, field.TooLong(path, name, nameMax))
	}
	return errs
}
