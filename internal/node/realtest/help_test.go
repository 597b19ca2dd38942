package realtest

import (
	"io"

	"k8s.io/apimachinery/pkg/util/intstr"
)

func port(n int) intstr.IntOrString { return intstr.FromInt(n) }

type pipeEnd struct {
	io.Reader
	io.WriteCloser
}

func newPipe() (a, b pipeEnd) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return pipeEnd{r1, w2}, pipeEnd{r2, w1}
}
