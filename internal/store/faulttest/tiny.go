package faulttest

import "github.com/cockroachdb/pebble/v2"

// Tiny makes Pebble flush, compact and rotate all the time.
func Tiny(o *pebble.Options) {
	o.MemTableSize = 32 << 10
	o.MaxManifestFileSize = 1 << 10
	o.L0CompactionThreshold = 2
	for i := range o.TargetFileSizes {
		o.TargetFileSizes[i] = 16 << 10
	}
}
