package etcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// The parts of etcd's transactions.

func putOp(key, value []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value}}}
}

func deleteOp(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
}

func deleteRangeOp(from, to []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: from, RangeEnd: to}}}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// modIs holds if the key was changed last at a revision (0: it does not exist).
func modIs(key []byte, rev etcdRevision) *pb.Compare {
	return &pb.Compare{Key: key, Result: pb.Compare_EQUAL, Target: pb.Compare_MOD,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: rev}}
}

// exists holds if the key does.
func exists(key []byte) *pb.Compare {
	return &pb.Compare{Key: key, Result: pb.Compare_GREATER, Target: pb.Compare_MOD,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: 0}}
}

// countIs holds if the key has been changed so often since it was made.
func countIs(key []byte, n int64) *pb.Compare {
	return &pb.Compare{Key: key, Result: pb.Compare_EQUAL, Target: pb.Compare_VERSION,
		TargetUnion: &pb.Compare_Version{Version: n}}
}
