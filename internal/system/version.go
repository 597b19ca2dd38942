package system

import (
	"runtime"

	"k8s.io/apimachinery/pkg/version"
)

// KubernetesVersion is the release whose API this program serves.
const KubernetesVersion = "v1.37.2"

// Version is what /version answers. The suffix after the plus sign is build
// metadata in the sense of semantic versioning, so charts that compare versions
// accept it.
func Version() version.Info {
	return version.Info{
		Major: "1", Minor: "37", GitVersion: KubernetesVersion + "+proa", GitTreeState: "clean",
		EmulationMajor: "1", EmulationMinor: "37", MinCompatibilityMajor: "1", MinCompatibilityMinor: "36",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}
