package httpapi

import "net/http"

type openapiDocs struct{}

func (x *exchange) serveOpenAPI2()      { http.NotFound(x, x.req) }
func (x *exchange) serveOpenAPI3()      { http.NotFound(x, x.req) }
func (x *exchange) serveOpenAPI3Group() { http.NotFound(x, x.req) }
