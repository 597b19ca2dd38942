// Command kubectl is the Kubernetes command line as it travels inside proa:
// k8s.io/kubectl publishes no main package, so this is one.
package main

import (
	_ "k8s.io/client-go/plugin/pkg/client/auth" // login providers of kubeconfig files: oidc, azure, gcp
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	command := cmd.NewDefaultKubectlCommand()
	if err := cli.RunNoErrOutput(command); err != nil {
		cmdutil.CheckErr(err)
	}
}
