package validate

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What follows decides by one pass over the bytes what the validation library
// decides by regular expressions. The library is asked only for its words, when
// something is wrong.

func lower(c byte) bool  { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
func letter(c byte) bool { return lower(c) || 'A' <= c && c <= 'Z' }

// IsLabel says whether s is a DNS-1123 label.
func IsLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || !lower(s[0]) || !lower(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !lower(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

// IsSubdomain says whether s is a DNS-1123 subdomain.
func IsSubdomain(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	prev := byte('.') // what a part begins after
	for i := range len(s) {
		switch c := s[i]; {
		case lower(c):
		case c == '-' && prev != '.':
		case c == '.' && prev != '.' && prev != '-':
		default:
			return false
		}
		prev = s[i]
	}
	return lower(prev)
}

// IsLabelKey says whether s is the key of a label: a qualified name.
func IsLabelKey(s string) bool {
	if prefix, name, ok := strings.Cut(s, "/"); ok {
		return IsSubdomain(prefix) && name != "" && IsLabelValue(name)
	}
	return s != "" && IsLabelValue(s)
}

// IsLabelValue says whether s can be the value of a label.
func IsLabelValue(s string) bool {
	if s == "" {
		return true
	}
	if len(s) > 63 || !letter(s[0]) || !letter(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !letter(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// IsConfigKey says whether s can be a key of a ConfigMap or Secret.
func IsConfigKey(s string) bool {
	if len(s) == 0 || len(s) > 253 || s == "." || strings.HasPrefix(s, "..") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !letter(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// IsPortName says whether s can be the name of a port.
func IsPortName(s string) bool {
	if len(s) == 0 || len(s) > 15 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	named := false
	for i := range len(s) {
		c := s[i]
		if !lower(c) && (c != '-' || s[i-1] == '-') {
			return false
		}
		named = named || 'a' <= c && c <= 'z'
	}
	return named
}

// IsHeaderName says whether s can be the name of an HTTP header.
func IsHeaderName(s string) bool {
	for i := range len(s) {
		if !letter(s[i]) && s[i] != '-' {
			return false
		}
	}
	return s != ""
}

// LabelKey checks that s is the key of a label.
func LabelKey(s string, path *field.Path) field.ErrorList {
	if IsLabelKey(s) {
		return nil
	}
	return metavalidation.ValidateLabelName(s, path)
}

// LabelValue checks that s can be the value of a label.
func LabelValue(s string, path *field.Path) field.ErrorList {
	if IsLabelValue(s) {
		return nil
	}
	return Messages(path, s, validation.IsValidLabelValue(s))
}

// Labels checks a set of labels.
func Labels(set map[string]string, path *field.Path) field.ErrorList {
	for k, v := range set {
		if !IsLabelKey(k) || !IsLabelValue(v) {
			return metavalidation.ValidateLabels(set, path)
		}
	}
	return nil
}

// Selector checks a label selector; nil is fine.
func Selector(s *metav1.LabelSelector, path *field.Path) field.ErrorList {
	if s == nil || len(s.MatchExpressions) == 0 && len(Labels(s.MatchLabels, nil)) == 0 {
		return nil
	}
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, path)
}
