// Package conformance is the table of what clients may rely on: every row names
// one documented behaviour of the Kubernetes API and plays the requests that
// show it, on the server in this process and again over HTTPS. `make
// conformance-api` runs it; docs/api-support.md is generated from it.
//
// The rows about custom resources (the areas that begin with "crd-") are played
// on Kubernetes' own machinery, too, by `make conformance-reference`: what they
// say is so.
//
// # Rows
//
// Each file testdata/*.txtar is one area; its comment says what the area is.
// Each section is one row; the name of the section is the behaviour, in a
// sentence. A row begins with settings, if it has any (those in an area's comment
// are for all its rows):
//
//	covers: NAME        a name of testdata/behaviours.txt that the row shows (may be repeated)
//	only: http          or process: the behaviour exists on one side only
//	needs: controllers  a server with the controllers running (see UNTIL); "controllers apart" is another
//	                    one, for rows that look at everything that is defined
//	needs: aggregation  a server with another behind it, which serves wares.example.com/v1
//	needs: own server [controllers] [services=CIDR] [ports=FROM-TO] [history=DURATION] [largest=SIZE]
//	pending: WHY        it does not hold yet: the row must fail, and does not count
//	reference: no WHY   a row about custom resources that cannot be played on the reference
//
// and goes on with steps. Lines that begin with # are comments.
//
//	POST configmaps?dryRun=All          a request: method and path
//	> Accept: application/yaml          its headers
//	  metadata: {name: a}               its body, as YAML, indented by two spaces
//	201                                 what it is answered with: the code
//	< Content-Type: application/yaml    headers of the answer
//	warning: ~unknown field             the warnings, all of them, in order ("no warnings": none)
//	  metadata: {uid: <any>}            the body of the answer, as far as it matters
//
//	409 AlreadyExists: configmaps "a" already exists
//
// is the code, reason and message of an error. More of its Status can follow as
// a body. Its causes can be told as they stand in its message, in any order, but all of them:
//
//	422 Invalid
//	cause: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1
//
// A path that does not begin with a slash is a resource in the row's own
// namespace: "configmaps/a" is /api/v1/namespaces/$ns/configmaps/a, and
// "apps/v1/deployments" is /apis/apps/v1/namespaces/$ns/deployments.
//
// Besides the HTTP methods there are
//
//	MERGE, STRATEGIC, JSONPATCH, APPLY    a PATCH of that type
//	TABLE, PARTIAL                        a GET that asks for a Table or for metadata only; a Table
//	                                      is compared as {columns: [Name, …], rows: [[a, …], …]}
//	WATCH w configmaps?…                  opens a watch and calls it w; it is answered by events, or,
//	                                      if it is refused, by an error
//	EVENTS w                              then a YAML list: the next events of w, in order, as
//	                                      {type: ADDED, object: {…}}
//	CLOSED w                              the watch ends without another event
//	UNTIL GET …                           asks until the answer is as expected, 10 s at most
//	DEFINE Widget                         creates a definition of a custom resource (see below)
//	5x POST …                             five times, with $i from 1 to 5
//	as: alice developers                  who asks from here on: a user with groups, "admin",
//	                                      "nobody" (no credentials) or "token $t"
//
// A body whose lines begin with "| " is sent as it is. In bodies, paths,
// headers and expectations $ns is the row's namespace (good as part of other
// names, too: it is unique) and $x what an earlier answer has set; $$ is a
// dollar, $lots is 8 KiB of text, $half and $mega are half a million and a million letters, $huge a ConfigMap of more than 3 MiB. A body with "like: v1/Pod" is the valid object of that kind of
// internal/kinds/testdata with the rest merged into it; "like: $obj" does so with
// a whole object that an answer has set.
//
// # Custom resources
//
// DEFINE creates the definition of a kind in the group $g, which is the row's
// own, and waits until it is established and every version of it is served. Its
// body is the definition's spec, as far as it is not this: the kind's plural in
// the group $g, namespaced, with one version v1 that is served and stored and
// keeps every field. What belongs to a version can stand beside the rest, if
// there is one version. In a version, "spec" and "status" are the schemas of
// these two fields and "root" is the whole schema. "conversion: /good" is by the
// test's own webhook, which behaves as that path says (see webhook). What the
// definition is answered with can follow, as after any request; unless it is 201
// nothing is waited for. From then on
//
//	like: Widget        is an object of the stored version with the name a
//	like: v2/Widget     is one of another version
//	$crds/widgets.$g    is the definition
//	$g/v1/widgets/a     is the object, in the row's namespace
//
// # Expectations
//
// An expected map is compared key by key; keys that are not named do not
// matter. A list must be of the same length, unless it begins with "...": then
// what follows must be in it, in any order. Numbers, booleans and strings must
// be equal. Besides:
//
//	null           absent (or null)
//	<any>          present and not empty
//	<set x>        present and not empty, and from now on known as $x
//	<not V>        anything but V
//	<above V>      a number above V (for resource versions)
//	<count N>      a list of N elements
//	~REGEXP        a string with a match
//
// A body that is no object (metrics, OpenAPI as text) is compared as one string.
package conformance
