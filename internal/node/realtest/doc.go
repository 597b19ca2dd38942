// Package realtest tests the node agent with real containers: containerd, shim
// and runc of the bundle, pod network, cgroups, volumes. Its tests need root,
// PROA_TEST_BIN (the folder with the programs) and PROA_TEST_IMAGES (the folder
// with the test images); without them they skip and say so.
package realtest
