package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"proa/internal/system"
)

// unitFile is where systemd looks for units of the machine's owner.
const unitFile = "/etc/systemd/system/proa.service"

// Install makes the cluster start with the machine.
var Install = &Command{
	Name: "install", Group: "Machine", Config: true,
	Short: "Start proa with the machine, as a systemd service",
	Long: `Writes ` + unitFile + ` with the settings given here, and enables
and starts it. Containers survive a restart of the service; a reboot brings the
cluster back. 'proa uninstall' removes the unit again.`,
	Run: func(ctx context.Context, c *Call) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		text := unit(self, c.Settings)
		if err := writeUnit(unitFile, text); err != nil {
			return err
		}
		fmt.Fprintf(c.Out, "Wrote %s\n", unitFile)
		if _, err := os.Stat("/run/systemd/system"); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("systemd does not run here: the unit is written but not started; on this machine use 'proa up -d'")
		}
		return systemctl(ctx, c, []string{"daemon-reload"}, []string{"enable", "--now", "proa.service"})
	},
}

// Uninstall undoes Install.
var Uninstall = &Command{
	Name: "uninstall", Group: "Machine",
	Short: "Remove the systemd service; data and containers stay",
	Run: func(ctx context.Context, c *Call) error {
		if _, err := os.Stat(unitFile); err != nil {
			return fmt.Errorf("proa is not installed here: %w", err)
		}
		if _, err := os.Stat("/run/systemd/system"); err == nil {
			if err := systemctl(ctx, c, []string{"disable", "--now", "proa.service"}); err != nil {
				return err
			}
		}
		if err := os.Remove(unitFile); err != nil {
			return err
		}
		fmt.Fprintf(c.Out, "Removed %s. 'proa clean' removes data and containers too.\n", unitFile)
		return nil
	},
}

func writeUnit(file, text string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	err := os.WriteFile(file, []byte(text), 0o644)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: run as root", err)
	}
	return err
}

func systemctl(ctx context.Context, c *Call, calls ...[]string) error {
	for _, args := range calls {
		cmd := exec.CommandContext(ctx, "systemctl", args...)
		cmd.Stdout, cmd.Stderr = c.Out, c.Err
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("systemctl %s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}

// unit is the service: cgroups are delegated, and only proa itself is ended on a
// stop, so that containers outlive a restart.
func unit(self string, s *Settings) string {
	args := []string{self, "up"}
	for _, x := range settingList {
		if s.from[x.Name] != "default" && s.values[x.Name] != x.Default {
			args = append(args, "--"+x.Name+"="+s.values[x.Name])
		}
	}
	for i, a := range args {
		args[i] = quoteUnit(a)
	}
	return `[Unit]
Description=Proa, a Kubernetes-compatible cluster
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
ExecStart=` + strings.Join(args, " ") + `
Delegate=yes
KillMode=process
Restart=always
RestartSec=1s
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity
OOMScoreAdjust=-999
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
`
}

// quoteUnit writes a word so that systemd reads it back as it is (systemd.service(5)).
func quoteUnit(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	if !strings.ContainsAny(s, " \t\"'\\$;") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `$$`).Replace(s) + `"`
}

// placesOf are the places of the cluster that the settings name.
func placesOf(c *Call) (system.Places, error) { return system.PlacesFor(c.Settings.Get("root")) }
