package cli

import (
	"strings"
	"testing"
)

func TestUnit(t *testing.T) {
	s := newSettings()
	for _, x := range settingList {
		switch x.Name {
		case "root":
			s.set(x, "/data/my cluster", "flag --root")
		case "log-level":
			s.set(x, "info", "flag --log-level")
		}
	}
	got := unit("/usr/local/bin/proa", s)
	for _, want := range []string{
		`ExecStart=/usr/local/bin/proa up "--root=/data/my cluster"` + "\n",
		"Delegate=yes\n", "KillMode=process\n", "Type=notify\n", "Restart=always\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the unit lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "log-level") {
		t.Error("a setting with its default value is in the unit")
	}
}
