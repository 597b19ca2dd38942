package v1

import (
	"k8s.io/apimachinery/pkg/types"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
)

// WebsiteApply is what somebody wants of a Website, for a server-side apply.
type WebsiteApply struct {
	metaapply.TypeMetaApplyConfiguration    `json:",inline"`
	*metaapply.ObjectMetaApplyConfiguration `json:"metadata,omitempty"`

	Spec *SpecApply `json:"spec,omitempty"`
}

// SpecApply is what somebody wants of its spec.
type SpecApply struct {
	Replicas *int32            `json:"replicas,omitempty"`
	Image    *string           `json:"image,omitempty"`
	Ports    []PortApply       `json:"ports,omitempty"`
	Pages    map[string]string `json:"pages,omitempty"`
}

// PortApply is what somebody wants of one port.
type PortApply struct {
	Name   *string `json:"name,omitempty"`
	Number *int32  `json:"number,omitempty"`
}

// NewApply begins an apply of the website of a name.
func NewApply(namespace, name string, spec *SpecApply) *WebsiteApply {
	a := &WebsiteApply{Spec: spec, ObjectMetaApplyConfiguration: metaapply.ObjectMeta().WithName(name).WithNamespace(namespace)}
	a.WithAPIVersion(GroupVersion.String()).WithKind("Website")
	return a
}

// IsApplyConfiguration says what this is.
func (*WebsiteApply) IsApplyConfiguration() {}

// WithUID wants the object of a uid only.
func (a *WebsiteApply) WithUID(uid types.UID) *WebsiteApply {
	a.ObjectMetaApplyConfiguration.UID = &uid
	return a
}
