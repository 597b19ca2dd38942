// Command oldkubectl is the Kubernetes command line of a release six minors back,
// which people still have on their machines.
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
