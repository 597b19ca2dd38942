package apiserver

import (
	_ "embed"
	"fmt"

	"github.com/klauspost/compress/zstd"
	smdtyped "sigs.k8s.io/structured-merge-diff/v6/typed"
)

// packedTypes is what applies go by: which lists are sets or maps and by which
// keys, of every type that k8s.io/client-go's apply configurations know, as the
// compressed text of a structured-merge-diff schema. It is client-go's own, taken
// over by `go test -run TestTypes -write`: its package would link every version of
// every API, 7 MB of program.
//
//go:embed types.zst
var packedTypes []byte

// unpackTypes returns the text of the schema.
func unpackTypes() (smdtyped.YAMLObject, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20))
	if err != nil {
		return "", err
	}
	defer z.Close()
	text, err := z.DecodeAll(packedTypes, nil)
	if err != nil {
		return "", fmt.Errorf("unpack the types for applies: %w", err)
	}
	return smdtyped.YAMLObject(text), nil
}
