package core

import (
	"crypto/tls"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/fill"
)

// Secret holds data that fewer people should see.
var Secret = &api.Kind[*corev1.Secret]{
	API: "v1", Resource: "secrets", Scope: api.Namespaced,
	Columns: []api.Column[*corev1.Secret]{
		api.Col("Type", func(s *corev1.Secret) string { return string(s.Type) }),
		api.Col("Data", func(s *corev1.Secret) int { return len(s.Data) }),
	},
	Fields: map[string]func(*corev1.Secret) string{
		"type": func(s *corev1.Secret) string { return string(s.Type) },
	},
	Default:  defaultSecret,
	Validate: validateSecret,
	Warn:     warnSecret,
}

// defaultSecret moves stringData, which is write-only, into data.
func defaultSecret(s *corev1.Secret) {
	fill.Zero(&s.Type, corev1.SecretTypeOpaque)
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = map[string][]byte{}
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

// warnSecret warns about a certificate and a key that do not belong together.
func warnSecret(s, _ *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

func validateSecret(s, old *corev1.Secret) (errs field.ErrorList) {
	data := field.NewPath("data")
	total := 0
	for k, v := range s.Data {
		errs = append(errs, validateConfigKey(k, data.Key(k))...)
		total += len(v)
	}
	if total > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(data, "", corev1.MaxSecretSize))
	}
	errs = append(errs, validateSecretType(s, data)...)
	if old == nil {
		return errs
	}
	errs = append(errs, validation.ValidateImmutableField(s.Type, old.Type, field.NewPath("type"))...)
	if isTrue(old.Immutable) {
		if !isTrue(s.Immutable) {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
		}
		if !equality.Semantic.DeepEqual(s.Data, old.Data) {
			errs = append(errs, field.Forbidden(data, "field is immutable when `immutable` is set"))
		}
	}
	return errs
}

// validateSecretType checks what each well-known type of secret must hold.
func validateSecretType(s *corev1.Secret, data *field.Path) (errs field.ErrorList) {
	need := func(keys ...string) {
		for _, k := range keys {
			if _, ok := s.Data[k]; !ok {
				errs = append(errs, field.Required(data.Key(k), ""))
			}
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		errs = append(errs, validateJSONKey(s, data, corev1.DockerConfigKey)...)
	case corev1.SecretTypeDockerConfigJson:
		errs = append(errs, validateJSONKey(s, data, corev1.DockerConfigJsonKey)...)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, pass := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !pass {
			need(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(data.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return errs
}

func validateJSONKey(s *corev1.Secret, data *field.Path, key string) (errs field.ErrorList) {
	b, ok := s.Data[key]
	if !ok {
		return append(errs, field.Required(data.Key(key), ""))
	}
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		errs = append(errs, field.Invalid(data.Key(key), "<secret contents redacted>", err.Error()))
	}
	return errs
}
