package podspec

// OldNodeLabel is what to say of a label of nodes that has a newer name, or "".
func OldNodeLabel(key string) string { return oldNodeLabels[key] }
