package openapi

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestJoin(t *testing.T) {
	const here = `{"swagger":"2.0","paths":{"/api/":{}},"definitions":{
		"Same":{"type":"object"},
		"Other":{"type":"string"},"Other_v2":{"type":"boolean"},
		"Holder":{"$ref":"#/definitions/Other"}}}`
	const there = `{"swagger":"2.0","paths":{
		"/apis/g/v1/":{"get":{"schema":{"$ref":"#/definitions/Holder"},"parameters":[{"$ref":"#/parameters/p"}]}},
		"/apis/g/v1/xs":{"get":{"schema":{"$ref": "#/definitions/Same"},"again":{"$ref":"#/definitions/New"}}},
		"/apis/g/v10/xs":{"get":{}},
		"/version":{}},
		"parameters":{"p":{"name":"p"},"unused":{}},
		"definitions":{
		"Same":{ "type" : "object" },
		"Other":{"type":"integer"},
		"Holder":{"$ref":"#/definitions/Other"},
		"New":{"properties":{"self":{"$ref":"#/definitions/New"},"o":{"$ref":"#/definitions/Other"}}},
		"Unused":{}}}`
	const want = `{"swagger":"2.0","paths":{"/api/":{},
		"/apis/g/v1/":{"get":{"schema":{"$ref":"#/definitions/Holder_v2"},"parameters":[{"$ref":"#/parameters/p"}]}},
		"/apis/g/v1/xs":{"get":{"schema":{"$ref":"#/definitions/Same"},"again":{"$ref":"#/definitions/New"}}}},
		"parameters":{"p":{"name":"p"}},
		"definitions":{
		"Same":{"type":"object"},
		"Other":{"type":"string"},"Other_v2":{"type":"boolean"},"Other_v3":{"type":"integer"},
		"Holder":{"$ref":"#/definitions/Other"},"Holder_v2":{"$ref":"#/definitions/Other_v3"},
		"New":{"properties":{"self":{"$ref":"#/definitions/New"},"o":{"$ref":"#/definitions/Other_v3"}}}}}`
	got, err := join([]byte(here), []Other{{"/apis/x/v1", []byte("broken")}, {"/apis/g/v1", []byte(there)}, {"/apis/y/v1", []byte(`{"paths":7}`)}})
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if err := json.Unmarshal(got, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%s\nwant %s", got, want)
	}
	if _, err := join([]byte("broken"), nil); err == nil {
		t.Error("a broken document of our own is taken")
	}
}
