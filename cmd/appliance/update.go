package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"aead.dev/minisign"
	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/internal/boot"
	"github.com/lastack/lastack/services/admin"
)

func updateCommand() *cli.Command {
	return &cli.Command{
		Name:  "update",
		Usage: "put another firmware on this box, and see what became of it",
		Description: "A bundle is written to the slot that does not run, compared with what was\n" +
			"signed, and tried at the next boot. It is kept if all is well for a while;\n" +
			"otherwise the box goes back by itself after three tries.",
		Subcommands: []*cli.Command{
			updateInstallCommand(), updateStatusCommand(), updateCommitCommand(), updateRollbackCommand(), updateBundleCommand(), updateKeyCommand(),
		},
	}
}

func updateInstallCommand() *cli.Command {
	return &cli.Command{
		Name: "install", Usage: "write a bundle to the other slot; - reads standard input", ArgsUsage: "FILE|URL",
		Description: "Nothing changes unless the bundle is whole, for this box and signed by one of\n" +
			"its update keys. From another machine:\n\n" +
			"   ssh admin@box update install --reboot - < lastack.bundle",
		Flags: []cli.Flag{
			boxFlag(), socketFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "downgrade", Usage: "an older release is meant"},
			&cli.BoolFlag{Name: "reboot", Usage: "boot it at once; connections end in order before"},
		},
		Action: updateInstallAction,
	}
}

func updateInstallAction(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageErr{errors.New("install wants one FILE or URL, or - for standard input")}
	}
	in, total, err := openBundle(c)
	if err != nil {
		return err
	}
	defer in.Close()
	bar := newBar(c.App.ErrWriter, "writing and comparing", total)
	u, err := theBox(c).Install(c.Context, bar.reader(in), c.Bool("downgrade"))
	bar.end()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = writeJSON(c, u)
	} else {
		_, err = fmt.Fprintf(c.App.Writer, "%s is in slot %s and is tried at the next boot; now runs %s\n", u.To, u.Slot, u.From)
	}
	if err != nil || !c.Bool("reboot") {
		return err
	}
	return power(c, boot.Reboot, false)
}

// openBundle opens the source; total is its size in bytes, 0 if that is not known.
func openBundle(c *cli.Context) (in io.ReadCloser, total int64, err error) {
	name := c.Args().First()
	switch {
	case name == "-":
		return io.NopCloser(c.App.Reader), 0, nil
	case strings.Contains(name, "://"):
		body, size, err := admin.NewClient(c.String("socket")).Fetch(c.Context, name)
		return body, max(size, 0), err
	case remote(c):
		return nil, 0, usageErr{fmt.Errorf("%q: %w; send it: ssh ... update install - < FILE", name, errRemoteFile)}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

func updateStatusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show the slots, the last boots and what became of updates",
		Flags: []cli.Flag{boxFlag(), jsonFlag()},
		Action: func(c *cli.Context) error {
			s, err := theBox(c).Status(c.Context)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return writeJSON(c, s)
			}
			return writeBox(c.App.Writer, s)
		},
	}
}

func updateCommitCommand() *cli.Command {
	return &cli.Command{
		Name: "commit", Usage: "keep the running slot without waiting until it is found good",
		Flags: []cli.Flag{boxFlag()},
		Action: func(c *cli.Context) error {
			if err := theBox(c).Commit(c.Context); err != nil {
				return err
			}
			_, err := fmt.Fprintln(c.App.Writer, "the running slot is good and stays")
			return err
		},
	}
}

func updateRollbackCommand() *cli.Command {
	return &cli.Command{
		Name: "rollback", Usage: "go back to the other slot",
		Flags: []cli.Flag{boxFlag(), &cli.BoolFlag{Name: "reboot", Usage: "at once; connections end in order before"}},
		Action: func(c *cli.Context) error {
			to, err := theBox(c).Rollback(c.Context)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(c.App.Writer, "the next boot is %s\n", to); err != nil || !c.Bool("reboot") {
				return err
			}
			return power(c, boot.Reboot, false)
		},
	}
}

func updateBundleCommand() *cli.Command {
	return &cli.Command{
		Name: "bundle", Usage: "make a signed bundle of a kernel and an initramfs",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kernel", Usage: "the kernel's `FILE`", Required: true, TakesFile: true},
			&cli.StringFlag{Name: "initrd", Usage: "the initramfs's `FILE`", Required: true, TakesFile: true},
			&cli.StringFlag{Name: "release", Usage: "`VERSION` for people", Required: true},
			&cli.Uint64Flag{Name: "build", Usage: "build `NUMBER`, which grows", Required: true},
			&cli.StringFlag{Name: "arch", Usage: "amd64 or arm64", Required: true},
			&cli.StringFlag{Name: "kernel-version", Usage: "as uname -r, for people"},
			&cli.Uint64Flag{Name: "min-from", Usage: "the oldest build `NUMBER` that may be updated to this"},
			&cli.StringFlag{Name: "options", Usage: "kernel command `LINE`; that of the box stays without it"},
			&cli.StringFlag{Name: "key", Usage: "minisign secret key `FILE`", Required: true, TakesFile: true},
			&cli.StringFlag{Name: "password", Usage: "of the secret key", EnvVars: []string{"MINISIGN_PASSWORD"}},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE`", Required: true, TakesFile: true},
		},
		Action: updateBundleAction,
	}
}

func updateBundleAction(c *cli.Context) (err error) {
	if remote(c) {
		return usageErr{errRemoteFile}
	}
	key, err := secretKey(c.String("key"), c.String("password"))
	if err != nil {
		return err
	}
	m := bundle.Manifest{
		Release: bundle.Release{Version: c.String("release"), Build: c.Uint64("build"), Arch: c.String("arch"), Kernel: c.String("kernel-version")},
		MinFrom: c.Uint64("min-from"), Options: c.String("options"),
	}
	if m.Arch != "amd64" && m.Arch != "arm64" {
		return usageErr{fmt.Errorf("arch %q: there are amd64 and arm64", m.Arch)}
	}
	out := c.String("output")
	f, err := os.Create(out + ".part")
	if err != nil {
		return err
	}
	err = errors.Join(bundle.Write(f, m, c.String("kernel"), c.String("initrd"), key), f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), out)
}

// secretKey reads a minisign key, with or without a password.
func secretKey(file, password string) (key minisign.PrivateKey, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return key, err
	}
	text = bytes.TrimRight(text, "\n")
	if minisign.IsEncrypted(text) {
		key, err = minisign.DecryptKey(password, text)
	} else {
		err = key.UnmarshalText(text)
	}
	if err != nil {
		return key, fmt.Errorf("read the secret key %s: %w", file, err)
	}
	return key, nil
}

func updateKeyCommand() *cli.Command {
	return &cli.Command{
		Name: "key", Usage: "make a pair of keys: NAME signs, NAME.pub goes onto images", ArgsUsage: "NAME",
		Description: "The form is minisign's; keys made by `minisign -G` do as well.",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "password", Usage: "encrypt the secret key", EnvVars: []string{"MINISIGN_PASSWORD"}}},
		Action:      updateKeyAction,
	}
}

func updateKeyAction(c *cli.Context) error {
	if remote(c) {
		return usageErr{errRemoteFile}
	}
	name := c.Args().First()
	if name == "" {
		return usageErr{errors.New("key wants a NAME for the files")}
	}
	public, private, err := minisign.GenerateKey(nil)
	if err != nil {
		return err
	}
	secret, err := private.MarshalText()
	if p := c.String("password"); err == nil && p != "" {
		secret, err = minisign.EncryptKey(p, private)
	}
	if err != nil {
		return err
	}
	open, err := public.MarshalText()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(secret, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.WriteFile(name+".pub", append(open, '\n'), 0o644)
}

// writeBox tells a person what update status knows.
func writeBox(w io.Writer, s boot.Status) error {
	fmt.Fprintf(w, "%s runs %s, kernel %s, slot %s, up %s\n", s.Hostname, s.Release, s.Kernel, cmp.Or(string(s.Slot), "unknown"), span(s.Uptime))
	fmt.Fprintf(w, "watchdog: %s\n", s.Watchdog)
	if s.Trial {
		fmt.Fprintf(w, "this slot is on trial: it is kept once all is well for %s", span(s.Stable))
		if s.Wrong != "" {
			fmt.Fprintf(w, "; the last that was not: %s", s.Wrong)
		}
		fmt.Fprintln(w)
	}
	for _, part := range slices.Sorted(maps.Keys(s.Problems)) {
		fmt.Fprintf(w, "! %s\n", s.Problems[part])
	}
	fmt.Fprintln(w)
	t := newTable("SLOT", "RELEASE", "STATE", "")
	for _, one := range s.Slots {
		runs := ""
		if one.Running {
			runs = "runs"
		}
		t.row(string(one.Slot), one.Title, one.State, runs)
	}
	if err := t.write(w); err != nil {
		return err
	}
	return errors.Join(writeUpdates(w, s.Updates), writeBoots(w, s.Boots))
}

const shown = 5 // of updates and boots

func writeUpdates(w io.Writer, all []boot.UpdateRecord) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable("UPDATE", "FROM", "TO", "SLOT", "RESULT")
	for _, u := range slices.Backward(all[max(0, len(all)-shown):]) {
		t.row(u.Time.Format(time.DateTime), u.From.String(), u.To.String(), string(u.Slot), string(u.Result))
	}
	if err := t.write(w); err != nil {
		return err
	}
	if last := all[len(all)-1]; last.Why != "" {
		fmt.Fprintf(w, "why: %s\n", last.Why)
	}
	return nil
}

func writeBoots(w io.Writer, all []boot.BootRecord) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable("BOOT", "TIME", "SLOT", "RELEASE", "READY", "END")
	for _, b := range slices.Backward(all[max(0, len(all)-shown):]) {
		ready := "no"
		if b.Ready {
			ready = "yes"
		}
		t.row(fmt.Sprint(b.Number), b.Time.Format(time.DateTime), string(b.Slot), b.Release.String(), ready, cmp.Or(b.End, "-"))
	}
	return t.write(w)
}
