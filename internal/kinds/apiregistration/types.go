package apiregistration

import _ "embed"

// types is how fields of the kind are owned. The tests of package kinds write
// it, from the OpenAPI definitions.
//
//go:embed types.yaml
var types string
