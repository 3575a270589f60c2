package deb

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/lock"
)

// apt is an apt of our own: sources, lists and caches below dir, for one suite
// and one architecture.
type apt struct {
	dir  string // absolute
	out  string // where packages go
	args []string
}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

func (s *Store) apt(suite string, arch image.Arch) (*apt, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, errors.New("packages come by apt-get, which this machine doesn't have: " +
			"build on Debian or Ubuntu, or in a container of debian:" + suite)
	}
	if _, err := os.Stat(keyring); err != nil {
		return nil, errors.New("the keys of Debian are missing: apt-get install debian-archive-keyring")
	}
	out, err := filepath.Abs(s.Dir)
	if err != nil {
		return nil, err
	}
	a := &apt{dir: filepath.Join(out, "apt-"+suite+"-"+string(arch)), out: out}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "parts"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	mirror := cmp.Or(s.Mirror, DefaultMirror)
	sources := fmt.Sprintf("deb [signed-by=%s] %s/debian %s main\ndeb [signed-by=%s] %s/debian-security %s-security main\n",
		keyring, mirror, suite, keyring, mirror, suite)
	for name, text := range map[string]string{"sources.list": sources, "status": ""} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	a.args = a.options(arch)
	return a, nil
}

func (a *apt) options(arch image.Arch) []string {
	at := func(name string) string { return filepath.Join(a.dir, name) }
	var args []string
	for _, o := range []string{
		"APT::Architecture=" + string(arch), "APT::Architectures=" + string(arch),
		"Dir::Etc::sourcelist=" + at("sources.list"), "Dir::Etc::sourceparts=" + at("parts"), "Dir::Etc::preferencesparts=" + at("parts"),
		"Dir::State::lists=" + at("lists"), "Dir::State::status=" + at("status"), "Dir::Cache=" + at("cache"),
		"Acquire::Languages=none", "APT::Sandbox::User=", "Acquire::Retries=2", "Acquire::http::Timeout=20",
	} {
		args = append(args, "-o", o)
	}
	return args
}

// download leaves a package's file in the store. The lists may be old: they
// are renewed if the package can't be had.
func (a *apt) download(ctx context.Context, p lock.Package) error {
	what := p.Name + "=" + p.Version
	if _, err := a.run(ctx, "apt-get", "download", what); err == nil {
		return nil
	}
	if err := a.update(ctx); err != nil {
		return err
	}
	_, err := a.run(ctx, "apt-get", "download", what)
	return err
}

func (a *apt) update(ctx context.Context) error {
	_, err := a.run(ctx, "apt-get", "update", "--error-on=any")
	return err
}

// run starts one of apt's commands in the store and returns what it prints.
func (a *apt) run(ctx context.Context, command string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, command, append(append([]string{"-q"}, a.args...), args...)...)
	cmd.Dir = a.out
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", command, args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out.String(), nil
}
