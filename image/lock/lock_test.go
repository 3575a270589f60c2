package lock_test

import (
	"os"
	"strings"
	"testing"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/lock"
)

func TestEveryArchitectureHasEveryPackage(t *testing.T) {
	f, err := lock.Default()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range image.Arches() {
		for _, r := range lock.Roles() {
			p, err := f.Find(r, a)
			if err != nil {
				t.Error(err)
			} else if p.Size < 1000 || p.Path == "" || p.Source == "" || !strings.HasSuffix(p.Path, "/"+p.FileName()) && !strings.Contains(p.Version, ":") {
				t.Errorf("%s for %s is not whole: %+v", r, a, p)
			}
		}
	}
	if k, _ := f.Find(lock.Kernel, image.ARM64); !strings.HasSuffix(k.KernelVersion(), "-arm64") {
		t.Errorf("got kernel %s for arm64", k.KernelVersion())
	}
}

func TestWrittenAsItIsRead(t *testing.T) {
	text, err := os.ReadFile("packages.lock")
	if err != nil {
		t.Fatal(err)
	}
	f, err := lock.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	f.Sort()
	out, err := f.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != string(text) {
		t.Error("packages.lock is not what `image lock --update` would write: it was edited by hand")
	}
}

func TestMistakesAreNamed(t *testing.T) {
	sum := strings.Repeat("0", 64)
	one := func(change string, to string) string {
		text := `{"suite":"bookworm","packages":[{"role":"kernel","name":"linux","version":"1","arch":"amd64","sha256":"` + sum + `"}]}`
		return strings.Replace(text, change, to, 1)
	}
	for _, c := range []struct{ text, want string }{
		{"{", "unexpected EOF"},
		{`{"suite":"bookworm","pakkages":[]}`, "unknown field"},
		{one(`"bookworm"`, `""`), "suite is missing"},
		{one(`"amd64"`, `"riscv64"`), `there are no images for "riscv64"`},
		{one(`"kernel"`, `"kernal"`), `role "kernal" is none of`},
		{one(sum, sum[1:]), "sha256 is not 64 digits"},
		{one(`"linux"`, `"../linux"`), "needs a name and a version"},
	} {
		if _, err := lock.Parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.text, err, c.want)
		}
	}
}
