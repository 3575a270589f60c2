package provision_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lastack/lastack/internal/history"
	"github.com/lastack/lastack/internal/provision"
)

// box is a data directory with a configuration, and a medium.
type box struct {
	t         *testing.T
	data, esp string
	provision.Target
}

func newBox(t *testing.T) *box {
	b := &box{t: t, data: t.TempDir(), esp: t.TempDir()}
	b.Target = provision.Target{
		Config: filepath.Join(b.data, "config", "appliance.yaml"), Keys: filepath.Join(b.data, "authorized_keys"), StateDir: filepath.Join(b.data, "state"),
		Check: func(text []byte) error {
			if strings.Contains(string(text), "wrong") {
				return errors.New("line 3: unknown key")
			}
			return nil
		},
		Keep: func(text []byte) error {
			if !strings.HasPrefix(string(text), "ssh-") {
				return errors.New("line 1: no key")
			}
			return nil
		},
	}
	return b
}

func (b *box) put(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.esp, name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// take provisions and returns what became of the files, in words.
func (b *box) take() []string {
	b.t.Helper()
	all, err := provision.Take(b.Target, filepath.Join(b.data, "none"), b.esp)
	if err != nil {
		b.t.Fatal(err)
	}
	var words []string
	for _, o := range all {
		words = append(words, filepath.Base(o.File)+" "+o.What)
	}
	return words
}

func (b *box) want(file, text string) {
	b.t.Helper()
	got, err := os.ReadFile(file)
	if err != nil || string(got) != text {
		b.t.Errorf("got %q and error %v in %s, want %q", got, err, file, text)
	}
}

func (b *box) took(want ...string) {
	b.t.Helper()
	if got := b.take(); !slices.Equal(got, want) {
		b.t.Errorf("got %q, want %q", got, want)
	}
}

func TestWhatIsOnAMediumIsTakenOnce(t *testing.T) {
	b := newBox(t)
	b.took()
	b.put("lastack.yaml", "first")
	b.put("authorized_keys", "ssh-ed25519 AAAA me")
	b.took("lastack.yaml taken", "authorized_keys taken")
	b.want(b.Config, "first")
	b.want(b.Keys, "ssh-ed25519 AAAA me")

	// What an operator applies later stays, with the medium still there.
	if err := os.WriteFile(b.Config, []byte("by hand"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.took("lastack.yaml known", "authorized_keys known")
	b.want(b.Config, "by hand")

	b.put("lastack.yaml", "second")
	b.took("lastack.yaml taken", "authorized_keys known")
	b.want(b.Config, "second")
	b.put("lastack.yaml", "first") // put back: it was taken before
	b.took("lastack.yaml known", "authorized_keys known")
	b.want(b.Config, "second")

	entries, err := history.In(filepath.Join(b.StateDir, "history")).List()
	if err != nil {
		t.Fatal(err)
	}
	var causes []string
	for _, e := range entries {
		causes = append(causes, e.Cause)
	}
	if want := []string{"provisioned from " + b.esp + "/lastack.yaml", "before lastack.yaml", "provisioned from " + b.esp + "/lastack.yaml"}; !slices.Equal(causes, want) {
		t.Errorf("got history %q, want %q", causes, want)
	}
}

func TestWhatIsWrongChangesNothingAndSaysSo(t *testing.T) {
	b := newBox(t)
	if err := os.MkdirAll(filepath.Dir(b.Config), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.Config, []byte("in force"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.put("lastack.yaml", "wrong")
	b.put("authorized_keys", "nonsense")
	b.took("lastack.yaml refused", "authorized_keys refused")
	b.want(b.Config, "in force")
	if _, err := os.Stat(b.Keys); err == nil {
		t.Error("wrong keys were taken")
	}
	all, err := provision.Take(b.Target, b.esp)
	if err != nil || !strings.Contains(all[0].String(), "lastack.yaml IS NOT TAKEN, the box goes on with what it has: line 3: unknown key") {
		t.Errorf("got %v and error %v, want one loud sentence", all, err)
	}
	b.put("lastack.yaml", "mended")
	b.took("lastack.yaml taken", "authorized_keys refused")
	b.want(b.Config, "mended")
}

func TestOddFilesOfAMediumAreRefused(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"a link":      func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a huge one":  func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("#", 2<<20)), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			if err := make(filepath.Join(b.esp, "lastack.yaml")); err != nil {
				t.Fatal(err)
			}
			b.took("lastack.yaml refused")
			if _, err := os.Stat(b.Config); err == nil {
				t.Error("it was taken")
			}
		})
	}
}

func TestABoxThatHasForgottenEverythingTakesAMediumAgain(t *testing.T) {
	b := newBox(t)
	b.put("lastack.yaml", "first")
	b.took("lastack.yaml taken")
	if err := os.RemoveAll(b.data); err != nil { // as a factory reset makes DATA blank
		t.Fatal(err)
	}
	b.took("lastack.yaml taken") // as at the first boot
	b.want(b.Config, "first")
}
