package access

import (
	"errors"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"proa/internal/pki"
)

// The clock is set while pods hold tokens.
func TestTokenAndClock(t *testing.T) {
	a, env := world(t)
	resp, err := a.Subs()["serviceaccounts/token"](t.Context(), env, request(nil))
	if err != nil {
		t.Fatal(err)
	}
	token := resp.Object.(*authenticationv1.TokenRequest).Status.Token
	for _, c := range []struct {
		jump time.Duration
		want error
	}{
		{0, nil}, {-12 * time.Hour, nil}, {30 * time.Minute, nil}, {-48 * time.Hour, pki.ErrNotYet}, {2 * time.Hour, pki.ErrExpired}, {0, nil},
	} {
		a.Now = func() time.Time { return start.Add(c.jump) }
		_, err := a.Signer.Verify(token, a.Audiences, a.Now())
		if !errors.Is(err, c.want) {
			t.Errorf("the clock jumps by %v: %v, want %v", c.jump, err, c.want)
		}
		if _, _, err := a.Authenticate(bearer(token)); (err == nil) != (c.want == nil) {
			t.Errorf("the clock jumps by %v: the client gets %v", c.jump, err)
		}
	}
}
