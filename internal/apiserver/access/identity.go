package access

import (
	"encoding/json"
	"net/http"

	"proa/internal/pki"
)

// IdentityPaths are the documents, by their paths, that let others check service
// account tokens: OpenID Connect Discovery 1.0, as KEP-1393 serves it.
func IdentityPaths(issuer string, signer *pki.Signer) map[string]http.Handler {
	return map[string]http.Handler{
		"/.well-known/openid-configuration": document("application/json", map[string]any{
			"issuer": issuer, "jwks_uri": issuer + "/openid/v1/jwks",
			"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"ES256"},
		}),
		"/openid/v1/jwks": document("application/jwk-set+json", signer.JWKS()),
	}
}

// document always answers with v.
func document(contentType string, v any) http.Handler {
	b, err := json.Marshal(v)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Write(b)
	})
}
