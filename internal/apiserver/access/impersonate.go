package access

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/api"
)

// Headers of impersonation (kubernetes.io/docs/reference/access-authn-authz/authentication).
const (
	headerUser  = "Impersonate-User"
	headerUID   = "Impersonate-Uid"
	headerGroup = "Impersonate-Group"
	headerExtra = "Impersonate-Extra-"
)

const groupAuthentication = "authentication.k8s.io"

// Impersonate returns a function that tells as whom a request acts whose headers
// ask to act as somebody else. Whoever asks needs the verb impersonate on all
// that he names: the user or service account, every group, the uid, and every
// value of the extra fields.
func Impersonate(by Authorizer) func(context.Context, api.User, http.Header) (api.User, error) {
	return func(ctx context.Context, who api.User, h http.Header) (api.User, error) {
		as, asked, err := impersonated(h)
		if err != nil {
			return who, err
		}
		for _, a := range asked {
			a.User, a.Verb = who, "impersonate"
			if ok, reason := by.Authorize(ctx, a); !ok {
				return who, a.forbidden(reason)
			}
		}
		return as, nil
	}
}

// impersonated reads the headers: who is meant, and what must be allowed for that.
func impersonated(h http.Header) (u api.User, asked []Attributes, err error) {
	u = api.User{Name: h.Get(headerUser), UID: h.Get(headerUID), Groups: slices.Clone(h[headerGroup]), Extra: map[string][]string{}}
	for name, values := range h {
		if len(name) > len(headerExtra) && strings.HasPrefix(name, headerExtra) {
			key := strings.ToLower(name[len(headerExtra):])
			if plain, err := url.PathUnescape(key); err == nil {
				key = plain
			}
			u.Extra[key] = append(u.Extra[key], values...)
		}
	}
	if u.Name == "" {
		return u, nil, apierrors.NewBadRequest(fmt.Sprintf("requested %q without impersonating a user name", slices.Concat(u.Groups, []string{u.UID})))
	}
	named := len(u.Groups) > 0
	if ns, name, ok := accountOf(u.Name); ok {
		asked = append(asked, Attributes{Resource: "serviceaccounts", Namespace: ns, Name: name})
		if !named {
			u.Groups = []string{api.GroupServiceAccounts, api.GroupServiceAccounts + ":" + ns}
		}
	} else {
		asked = append(asked, Attributes{Resource: "users", Name: u.Name})
	}
	if named {
		for _, g := range u.Groups {
			asked = append(asked, Attributes{Resource: "groups", Name: g})
		}
	}
	for key, values := range u.Extra {
		for _, v := range values {
			asked = append(asked, Attributes{Group: groupAuthentication, Resource: "userextras", Sub: key, Name: v})
		}
	}
	if u.UID != "" {
		asked = append(asked, Attributes{Group: groupAuthentication, Resource: "uids", Name: u.UID})
	}
	if !u.In(api.GroupAuthenticated) && !u.In(api.GroupUnauthenticated) {
		known := api.GroupAuthenticated
		if u.Name == api.UserAnonymous {
			known = api.GroupUnauthenticated
		}
		u.Groups = append(u.Groups, known)
	}
	return u, asked, nil
}

// accountOf splits the user name of a service account.
func accountOf(user string) (ns, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	ns, name, ok = strings.Cut(rest, ":")
	return ns, name, ok && ns != "" && name != "" && !strings.Contains(name, ":")
}
