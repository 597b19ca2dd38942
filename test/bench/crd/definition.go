package main

import (
	"fmt"
	"strings"
)

const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// Twenty definitions share a group, as the operators of this world have it.
func group(n int) string          { return fmt.Sprintf("g%d.bench.proa.local", n/20) }
func plural(n int) string         { return fmt.Sprintf("databases%d", n) }
func definitionName(n int) string { return plural(n) + "." + group(n) }
func objects(n int) string {
	return fmt.Sprintf("/apis/%s/v1/namespaces/default/%s", group(n), plural(n))
}

// small is a definition as a small operator has it, of some 5 KB.
func small(n int) string { return define(n, smallSpec) }

// large is one that holds a pod's template and more, as large operators have it.
func large(n int) string { return define(n, largeSpec) }

// object is one of either.
func object(n int) string {
	return fmt.Sprintf(`{"apiVersion":"%s/v1","kind":"Database%d","metadata":{"name":"one"},"spec":{"engine":"postgres","version":"17.2","storage":{"size":"10Gi"},`+
		`"users":[{"name":"app","databases":["app"]}]}}`, group(n), n)
}

func define(n int, spec string) string {
	r := strings.NewReplacer("$GROUP", group(n), "$PLURAL", plural(n), "$N", fmt.Sprint(n), "$SPEC", spec, "$STATUS", statusSchema)
	return r.Replace(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"$PLURAL.$GROUP"},
"spec":{"group":"$GROUP","scope":"Namespaced","names":{"plural":"$PLURAL","singular":"database$N","kind":"Database$N","listKind":"Database$NList","categories":["all"]},
"versions":[{"name":"v1","served":true,"storage":true,
"subresources":{"status":{},"scale":{"specReplicasPath":".spec.replicas","statusReplicasPath":".status.replicas","labelSelectorPath":".status.selector"}},
"additionalPrinterColumns":[{"name":"Engine","type":"string","jsonPath":".spec.engine"},{"name":"Version","type":"string","jsonPath":".spec.version"},
{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"},{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}],
"schema":{"openAPIV3Schema":{"type":"object","description":"Database$N is a database that is kept running, backed up and reachable.","required":["spec"],"properties":{
"apiVersion":{"type":"string","description":"The version of the schema of this representation of an object."},
"kind":{"type":"string","description":"The resource that this object stands for."},"metadata":{"type":"object"},
"spec":$SPEC,"status":$STATUS}}}}]}}`)
}

const smallSpec = `{"type":"object","description":"What is wanted of the database.","required":["engine","version","storage"],
"x-kubernetes-validations":[{"rule":"self.replicas <= 1 || self.engine != 'sqlite'","message":"sqlite has no replicas"}],
"properties":{
"engine":{"type":"string","description":"The program that keeps the data.","enum":["postgres","mysql","sqlite"],"x-kubernetes-validations":[{"rule":"self == oldSelf","message":"the engine stays as it is"}]},
"version":{"type":"string","description":"The version of the engine, as the engine counts.","pattern":"^[0-9]+(\\.[0-9]+)*$","maxLength":20},
"replicas":{"type":"integer","format":"int32","description":"How many copies of the data are kept.","minimum":0,"maximum":9,"default":1},
"storage":{"type":"object","description":"Where the data is kept.","required":["size"],"properties":{
"size":{"anyOf":[{"type":"integer"},{"type":"string"}],"x-kubernetes-int-or-string":true,"description":"How much is asked for.","pattern":"^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$"},
"storageClassName":{"type":"string","description":"The class of the volumes; the cluster's default if not given."}}},
"resources":{"type":"object","description":"What a replica may use of processors and memory.","properties":{
"limits":{"type":"object","additionalProperties":{"anyOf":[{"type":"integer"},{"type":"string"}],"x-kubernetes-int-or-string":true}},
"requests":{"type":"object","additionalProperties":{"anyOf":[{"type":"integer"},{"type":"string"}],"x-kubernetes-int-or-string":true}}}},
"users":{"type":"array","description":"Who may connect.","maxItems":64,"x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["name"],"items":{"type":"object","required":["name"],"properties":{
"name":{"type":"string","minLength":1,"maxLength":63},"databases":{"type":"array","items":{"type":"string"},"x-kubernetes-list-type":"set"},
"secretRef":{"type":"object","description":"The secret that holds the password.","required":["name"],"properties":{"name":{"type":"string"},"key":{"type":"string","default":"password"}},"x-kubernetes-map-type":"atomic"}}}},
"backup":{"type":"object","description":"When and where copies are put aside.","properties":{"schedule":{"type":"string","description":"As cron has it."},"retention":{"type":"string","default":"168h"},
"destination":{"type":"object","properties":{"bucket":{"type":"string"},"prefix":{"type":"string"},"endpoint":{"type":"string","format":"uri"}}}}},
"settings":{"type":"object","description":"Passed on to the engine.","additionalProperties":{"type":"string"}},
"paused":{"type":"boolean","description":"Leaves everything as it is."}}}`

const statusSchema = `{"type":"object","description":"What there is of the database.","properties":{
"observedGeneration":{"type":"integer","format":"int64"},"replicas":{"type":"integer","format":"int32"},"selector":{"type":"string"},"endpoint":{"type":"string"},
"conditions":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["type"],"items":{"type":"object","required":["type","status","lastTransitionTime","reason","message"],"properties":{
"type":{"type":"string","maxLength":316},"status":{"type":"string","enum":["True","False","Unknown"]},"observedGeneration":{"type":"integer","format":"int64","minimum":0},
"lastTransitionTime":{"type":"string","format":"date-time"},"reason":{"type":"string","minLength":1,"maxLength":1024},"message":{"type":"string","maxLength":32768}}}}}}`

// largeSpec has the small one's fields, and sixty groups of thirty more.
var largeSpec = func() string {
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(smallSpec, "}}"))
	for i := range 60 {
		fmt.Fprintf(&b, `,"group%d":{"type":"object","description":"The settings of part %d of the database, which has many.","properties":{`, i, i)
		for j := range 30 {
			if j > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `"field%d":{"type":"array","description":"Field %d of part %d: what it means is written here, in a sentence or two, so that it can be looked up.",`+
				`"items":{"type":"object","properties":{"name":{"type":"string"},"value":{"type":"integer","format":"int64","minimum":0}}}}`, j, j, i)
		}
		b.WriteString("}}")
	}
	b.WriteString("}}")
	return b.String()
}()
