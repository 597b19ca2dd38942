// Package planted holds the mistakes that the tests of the store and the API
// server must catch. Each is a branch in the code it is about, behind
// Is("its-name"), which is constant false without the build tag planted; with
// it, a variable of the environment chooses one a run. Adding one is that branch
// and one entry in All; `make fault` runs them all, and one that the tests named
// here do not catch is a hole in the tests.
package planted

// Variable is the environment's that names the bug to be there.
const Variable = "PROA_PLANTED"

// A Bug is one planted mistake.
type Bug struct {
	Name  string // lower-case words with dashes, unique
	In    string // the package, below internal/
	What  string // what the code does with it
	Tests string // a pattern of the tests that must fail, as for go test -run
	Of    string // the package of those tests, below internal/; In if empty
}

// All are the planted bugs.
var All = []Bug{
	// Durability.
	{"ack-before-sync", "store/lsm", "a write is acknowledged before its sync", "TestCrash$", ""},
	{"visible-before-sync", "store/lsm", "reads see a group before its sync", "TestReopenTells$", ""},
	{"torn-group", "store/lsm", "a version is written outside its group", "TestCrash$", ""},
	{"failure-unnoticed", "store/lsm", "a failed write to the disk does not end acknowledging", "TestReopenTells$", ""},
	{"reopen-loses-watch", "store/lsm", "what is read back after a failure is kept from watches", "TestReopenTells$", ""},
	{"revision-goes-back", "store/lsm", "the last revision is given out again after a restart", "TestLSM/ReopenKeeps", ""},
	{"jump-not-durable", "store/lsm", "a jump of the revision is only in memory", "TestLSM/AdvanceOverReopen", ""},
	{"expiry-forgotten", "store/lsm", "records outlive their time if the engine was reopened", "TestLSM/ExpiryOverReopen", ""},
	{"full-disk-unnoticed", "store/lsm", "the reserve of the disk is written to", "TestReserve$", ""},
	{"reach-ignored", "store/lsm", "damage to the end of the log is taken for a crash", "TestLogTail$", ""},
	{"manifest-unchecked", "store/lsm", "damage to the end of the MANIFEST is taken for a crash", "TestManifestTail$", ""},
	{"checksum-ignored", "store/lsm", "records are not verified", "TestEveryFlipInARecord$", ""},
	{"scrub-blind", "store/lsm", "the scrub keeps what it finds to itself", "TestScrub$", ""},

	// Order and compare-and-swap.
	{"lost-update", "store/lsm", "a write does not see another of its group", "TestLSM/ChainsInOneGroup", ""},
	{"events-swapped", "store/lsm", "two changes of a group reach the watches in the wrong order", "TestLSM/OrderUnderConcurrency", ""},
	{"stale-read", "store/lsm", "a get shows the state before the newest", "TestLSM/(Compare|Linearizable)", ""},
	{"created-reset", "store/lsm", "an update makes the key anew", "TestLSM/Record", ""},
	{"time-lost", "store/lsm", "a record's time is the day's", "TestLSM/Record", ""},
	{"user-lost", "store/lsm", "a record has no user", "TestLSM/Record", ""},

	// History and compaction.
	{"compaction-skips-event", "store/lsm", "a compaction removes a change above the horizon", "TestLSM/ReopenKeepsEverything", ""},
	{"compaction-deletes-live", "store/lsm", "a compaction removes the version that is valid", "TestLSM/HistoryAndCompaction", ""},
	{"compaction-resurrects", "store/lsm", "a compaction forgets a deletion and keeps the record", "TestLSM/HistoryAndCompaction", ""},
	{"horizon-forgotten", "store/lsm", "after a restart the horizon is said to be 0", "TestLSM/ReopenKeeps", ""},
	{"compacted-unsaid", "store/lsm", "a watch from below the horizon begins", "TestLSM/HistoryAndCompaction", ""},
	{"old-range-shows-newer", "store/lsm", "a range at an old revision shows newer records", "TestLSM/HistoryAndCompaction", ""},
	{"limit-one-too-many", "store/lsm", "a range ends one record late", "TestLSM/RangeBounds", ""},
	{"bound-included", "store/lsm", "a range includes its end", "TestLSM/RangeBounds", ""},

	// Watches.
	{"watch-resumes-late", "store/lsm", "a watch from the log leaves out its first change", "TestSmallFeed/WatchResumes", ""},
	{"progress-ahead", "store/lsm", "a batch says that it reaches further than it does", "TestSmallFeed/SlowReader$", ""},
	{"delete-without-value", "store/lsm", "the event of a deletion has no last value", "TestLSM/WatchResumes", ""},
	{"feed-forgets", "store/feed", "a slow reader is not sent to the log for what the feed has dropped", "TestLSM/SlowReader$", "store/lsm"},
	{"event-twice", "store/feed", "an event is delivered twice", "TestMemory/WatchResumes", "store/memory"},

	// Expiry.
	{"renewed-expires", "store/lsm", "a renewed record ends at its old time", "TestLSM/Expiry$", ""},
	{"expiry-early", "store/expiry", "records end a second early", "TestMemory/Expiry$", "store/memory"},
	{"expiry-stops", "store/expiry", "nothing ends after the first that did", "TestMemory/Expiry$", "store/memory"},

	// The engine in memory.
	{"memory-lost-update", "store/memory", "an expected revision is not compared", "TestMemory/Compare", ""},
	{"memory-compaction-deletes-live", "store/memory", "a compaction removes the version that is valid", "TestMemory/HistoryAndCompaction", ""},
	{"memory-old-range-shows-newer", "store/memory", "a range at an old revision shows newer records", "TestMemory/HistoryAndCompaction", ""},

	// The API server.
	{"api-stale-snapshot", "apiserver", "a snapshot is not renewed after writes", "TestSnapshotIsConsistent|TestWatchAgreesWithList|TestListInPages", ""},
	{"api-event-skipped", "apiserver", "a watch leaves out every seventh revision", "TestWatchAgreesWithList", ""},
	{"api-bookmark-ahead", "apiserver", "a bookmark names a revision that has not been delivered", "TestBookmarksAreNotAhead", ""},
	{"api-leaving-untold", "apiserver", "an object that leaves a selector is not reported", "TestWatchAgreesWithList", ""},
	{"api-gone-untold", "apiserver", "a watch of what is compacted waits instead of ending with 410", "TestWatchTooOld", ""},
	{"api-continue-skips", "apiserver", "a page begins one object late", "TestListInPages", ""},
	{"api-exact-shows-newest", "apiserver", "a list at an exact revision shows the newest", "TestListInPages|TestWatchAgreesWithList", ""},
	{"api-update-overwrites", "apiserver", "an update's resourceVersion is not compared", "TestCreateGetUpdateDelete|TestUpdatesDoNotOverwrite", ""},
	{"api-delete-unconditional", "apiserver", "a deletion's resourceVersion is not compared", "TestDeleteByVersion", ""},
	{"api-read-before-write", "apiserver", "a write is answered before reads show it", "TestUpdatesDoNotOverwrite|TestWatchAgreesWithList|TestReadOwnWrites", ""},
}
