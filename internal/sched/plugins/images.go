package plugins

import (
	"strings"

	"proa/internal/sched"
)

// Sizes between which the images at hand count, in bytes: the most per container.
const (
	leastImage = 23 << 20
	mostImage  = 1000 << 20
)

// ImageLocality prefers nodes that have the pod's images already. An image that
// few nodes have counts less, or they would be overrun.
var ImageLocality = &sched.Plugin{
	Name: "ImageLocality",
	For: func(pod *sched.Pod, s *sched.State) *sched.Check {
		type image struct {
			name  string
			share float64
		}
		var images []image
		add := func(name string) {
			name = normalized(name)
			if n := s.HasImage(name); n > 0 {
				images = append(images, image{name, float64(n) / float64(len(s.Nodes))})
			}
		}
		for i := range pod.Spec.InitContainers {
			add(pod.Spec.InitContainers[i].Image)
		}
		for i := range pod.Spec.Containers {
			add(pod.Spec.Containers[i].Image)
		}
		if len(images) == 0 {
			return nil
		}
		most := int64(mostImage * (len(pod.Spec.Containers) + len(pod.Spec.InitContainers)))
		return &sched.Check{Score: func(n *sched.Node) int64 {
			sum := int64(0)
			for _, i := range images {
				sum += int64(float64(n.Images[i.name]) * i.share)
			}
			return 100 * (min(max(sum, leastImage), most) - leastImage) / (most - leastImage)
		}}
	},
}

// normalized adds the tag that an image's name has left out.
func normalized(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		name += ":latest"
	}
	return name
}
