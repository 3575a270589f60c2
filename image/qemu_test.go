package image_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/build"
	"github.com/lastack/lastack/image/deb"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/flash"
	"github.com/lastack/lastack/image/lock"
	"github.com/lastack/lastack/image/vm"
)

// These tests boot the image that is shipped, with the binary that is shipped:
// UEFI firmware, boot loader, kernel, process 1, appliance. internal/boot has
// those that update and break it.

// plant builds each architecture's image once for all tests.
type plant struct {
	mu     sync.Mutex
	dir    string
	images map[image.Arch]string
}

var shared = &plant{images: map[image.Arch]string{}} // of one test process

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "lastack-image-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared.dir = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// unless ends a test that can't run: a skip, or a failure where everything must run.
func unless(t *testing.T, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("APPLIANCE_TEST") == "require":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}

// long is for what only make test-image runs.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("APPLIANCE_IMAGE_TEST") == "" {
		t.Skip("a part of make test-image")
	}
}

func binary(t *testing.T, arch image.Arch) string {
	t.Helper()
	out := filepath.Join(shared.dir, "appliance-"+string(arch))
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid= -X main.version=test", "-o", out, "github.com/lastack/lastack/cmd/appliance")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+string(arch))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build for %s: %v\n%s", arch, err, text)
	}
	return out
}

// debian is where the packages of images come from.
func debian(t *testing.T) (*lock.File, *deb.Store) {
	t.Helper()
	list, err := lock.Default()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "lastack")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return list, &deb.Store{Dir: dir, Log: t.Output()}
}

func options(t *testing.T, arch image.Arch, out string) build.Options {
	t.Helper()
	list, store := debian(t)
	return build.Options{Arch: arch, Version: "test", Build: 1, Binary: binary(t, arch), Config: image.DefaultConfig(), Lock: list,
		Store: store, Log: t.Output(), Out: out, Uncompressed: true}
}

// factory is the image of an architecture, not to be changed.
func factory(t *testing.T, arch image.Arch) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes longer than a short run may")
	}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if name := shared.images[arch]; name != "" {
		return name
	}
	name := filepath.Join(shared.dir, string(arch)+".img")
	_, err := build.Build(t.Context(), options(t, arch, name))
	unless(t, err)
	shared.images[arch] = name
	return name
}

// rig is a machine with a disk of its own, and a backend behind it.
type rig struct {
	*vm.Machine
	config vm.Config
	url    string // of the machine's port 80
	ssh    string // address of its port 22
	key    ssh.Signer
	host   ssh.PublicKey // the box's, once it was seen
}

func boot(t *testing.T, arch image.Arch, change func(*vm.Config)) *rig {
	t.Helper()
	_, _, err := vm.Need(arch)
	unless(t, err)
	dir := t.TempDir()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "backend: %s", r.URL.Path)
	}))
	t.Cleanup(backend.Close)
	c := vm.Config{Arch: arch, Disk: filepath.Join(dir, "disk.img"), Vars: filepath.Join(dir, "vars.fd"), Alone: true,
		Forwards: []vm.Forward{{Host: freePort(t), Guest: 80}, {Host: freePort(t), Guest: 22}}}
	key := newKey(t)
	ownDisk(t, factory(t, arch), c.Disk, disk.File{Path: image.ProvisionConfig, Data: []byte(vm.ExampleConfig(portOf(backend)))},
		disk.File{Path: image.ProvisionKeys, Data: ssh.MarshalAuthorizedKey(key.PublicKey())})
	if change != nil {
		change(&c)
	}
	r := &rig{config: c, url: fmt.Sprintf("http://127.0.0.1:%d", c.Forwards[0].Host), ssh: fmt.Sprintf("127.0.0.1:%d", c.Forwards[1].Host), key: key}
	r.powerOn(t)
	t.Cleanup(func() {
		r.powerCut(t)
		if t.Failed() {
			t.Logf("the console:\n%s", r.Console())
		}
	})
	return r
}

func (r *rig) powerOn(t *testing.T) {
	t.Helper()
	var err error
	if r.Machine, err = vm.Start(r.config); err != nil {
		t.Fatal(err)
	}
}

// powerCut takes from the guest what it has not brought to its disk; what it has, QEMU has handed to the host.
func (r *rig) powerCut(t *testing.T) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// login is one over SSH, as admin. The box's key must stay what it was at the first.
func (r *rig) login(t *testing.T) *ssh.Client {
	t.Helper()
	known := func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if r.host == nil {
			r.host = key
		}
		if !bytes.Equal(key.Marshal(), r.host.Marshal()) {
			return errors.New("the box has another host key than before")
		}
		return nil
	}
	c, err := ssh.Dial("tcp", r.ssh, &ssh.ClientConfig{User: "admin", Auth: []ssh.AuthMethod{ssh.PublicKeys(r.key)}, HostKeyCallback: known, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func session(t *testing.T, c *ssh.Client) *ssh.Session {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run is a command over SSH.
func (r *rig) run(t *testing.T, command string) string {
	t.Helper()
	c := r.login(t)
	defer c.Close()
	s := session(t, c)
	defer s.Close()
	out, err := s.CombinedOutput(command)
	if err != nil {
		t.Fatalf("ssh admin@box %s: %v: %s", command, err, out)
	}
	return string(out)
}

func ownDisk(t *testing.T, from, to string, files ...disk.File) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := flash.CopySparse(out, in); err != nil {
		t.Fatal(err)
	}
	if err := disk.Add(out, files); err != nil {
		t.Fatal(err)
	}
}

func portOf(s *httptest.Server) uint16 { return uint16(s.Listener.Addr().(*net.TCPAddr).Port) }

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// patience is for a boot on a machine that is busy with other tests; a quiet
// one takes a fifth of it.
const patience = 90 * time.Second

func (r *rig) expect(t *testing.T, pattern string) []string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	match, err := r.Expect(ctx, pattern)
	if err != nil {
		t.Fatal(err)
	}
	return match
}

// get asks until the box forwards, and returns the answer and when the power had been on for how long.
func (r *rig) get(t *testing.T, path string) (string, time.Duration) {
	t.Helper()
	return ask(t, r.url+path, time.Now().Add(-r.Up()))
}

func ask(t *testing.T, url string, began time.Time) (string, time.Duration) {
	t.Helper()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	var last error
	for time.Since(began) < patience {
		answer, err := client.Get(url)
		if err == nil {
			body, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err == nil {
				return string(body), time.Since(began)
			}
		}
		last = err
		<-poll.C
	}
	t.Fatalf("the box forwards nothing: %v", last)
	return "", 0
}

func eachArch(t *testing.T, test func(*testing.T, image.Arch)) {
	for _, arch := range image.Arches() {
		t.Run(string(arch), func(t *testing.T) { test(t, arch) })
	}
}

func TestImageBootsAndForwards(t *testing.T) {
	eachArch(t, func(t *testing.T, arch image.Arch) {
		r := boot(t, arch, nil)
		kernel := r.expect(t, `lastack starts .*arch=(\w+) kernel=\S+ since_boot=(\S+)`)
		if kernel[1] != string(arch) {
			t.Errorf("got a system for %s, want %s", kernel[1], arch)
		}
		atInit := r.Up()
		r.expect(t, `the appliance is ready`)
		got, took := r.get(t, "/hello")
		if want := "backend: /hello"; got != want {
			t.Errorf("got %q through the box, want %q", got, want)
		}
		t.Logf("process 1 after %v (%s of it in the kernel), first forwarded connection after %v", atInit.Round(100*time.Millisecond), kernel[2], took.Round(100*time.Millisecond))
		if limit := 15 * time.Second; os.Getenv("APPLIANCE_IMAGE_TEST") != "" && took > limit {
			t.Errorf("the first forwarded connection came after %v, want %v on a quiet machine", took, limit)
		}
		if status := r.run(t, "status"); !strings.Contains(status, "web") || !strings.Contains(status, vm.GuestWAN) {
			t.Errorf("status over SSH shows neither the service nor the address:\n%s", status)
		}
		if err := r.Type("\rstatus\r"); err != nil {
			t.Fatal(err)
		}
		r.expect(t, `(?s)> status.*`+vm.GuestWAN) // on the serial console
		for line := range strings.Lines(r.Console()) {
			if strings.Contains(line, " ERR ") || strings.Contains(line, " WRN ") || strings.Contains(line, "panic") {
				t.Errorf("the console says: %s", line)
			}
		}
	})
}

// A reset entry that the loader took by itself would cost somebody all settings.
func TestLoaderNeverResetsByItself(t *testing.T) {
	long(t)
	eachArch(t, func(t *testing.T, arch image.Arch) {
		files := talkative(t, arch, "")
		for i, f := range files {
			if f.Path == "/loader/entries/a.conf" { // no tries are left: the reset is the only entry without a fault
				files[i].Path = "/loader/entries/a+0-3.conf"
			}
		}
		r := boot(t, arch, func(c *vm.Config) {
			c.Disk += ".bad"
			if err := disk.Write(c.Disk, files); err != nil {
				t.Fatal(err)
			}
		})
		if line := r.expect(t, `ommand line: (.*)`)[1]; strings.Contains(line, image.ResetArg) {
			t.Errorf("the loader took the reset entry by itself: %s", line)
		}
	})
}

// talkative are the files of an image whose kernel says more, and has more on its command line.
func talkative(t *testing.T, arch image.Arch, more string) []disk.File {
	t.Helper()
	files := read(t, factory(t, arch))
	for i, f := range files {
		if strings.HasPrefix(f.Path, image.EntriesDir) {
			files[i].Data = bytes.ReplaceAll(f.Data, []byte(" quiet"), []byte(more))
		}
	}
	return files
}

// maxIdle is what the whole system may use when it waits for connections:
// kernel, initramfs, process 1, appliance. Caches that give way don't count.
const maxIdle = 128_000_000

func TestIdleMemoryIsSmall(t *testing.T) {
	long(t)
	eachArch(t, func(t *testing.T, arch image.Arch) {
		files := talkative(t, arch, " sysrq_always_enabled=1")
		r := boot(t, arch, func(c *vm.Config) {
			c.Disk += ".talks"
			if err := disk.Write(c.Disk, files); err != nil {
				t.Fatal(err)
			}
		})
		r.expect(t, `the appliance is ready`)
		r.expect(t, `address from DHCP`)
		// Ctrl-A B is a break on QEMU's serial line, and break and m ask the kernel for
		// its figures (Documentation/admin-guide/sysrq.rst).
		if err := r.Type("\x01bm"); err != nil {
			t.Fatal(err)
		}
		figure := func(pattern string) int {
			n, err := strconv.Atoi(r.expect(t, pattern)[1])
			if err != nil {
				t.Fatal(err)
			}
			return n * 4096
		}
		r.expect(t, `Mem-Info:`)
		active, inactive, reclaimable := figure(`active_file:(\d+)`), figure(`inactive_file:(\d+)`), figure(`slab_reclaimable:(\d+)`)
		free := figure(` free:(\d+)`)
		// Of the machine's memory: what the kernel calls RAM is without what it and the firmware keep.
		used := vm.DefaultMemory<<20 - free - active - inactive - reclaimable
		t.Logf("%d MB of %d MiB are in use", used/1e6, vm.DefaultMemory)
		if used > maxIdle {
			t.Errorf("the idle system uses %d bytes, want %d at most", used, maxIdle)
		}
	})
}

// An Intel card takes seconds to get its link, and has a driver to be loaded for it.
func TestImageForwardsThroughAnIntelCard(t *testing.T) {
	long(t)
	eachArch(t, func(t *testing.T, arch image.Arch) {
		r := boot(t, arch, func(c *vm.Config) { c.Card = "e1000e" })
		r.expect(t, `nic=eth\d .*driver=e1000e`)
		if got, _ := r.get(t, "/intel"); got != "backend: /intel" {
			t.Errorf("got %q", got)
		}
	})
}

// The command itself, as a user starts it: a disk of its own, a backend, forwards.
func TestQemuCommandForwardsToItsBackend(t *testing.T) {
	long(t)
	eachArch(t, func(t *testing.T, arch image.Arch) {
		_, _, err := vm.Need(arch)
		unless(t, err)
		host, err := image.ParseArch(runtime.GOARCH)
		unless(t, err)
		port := freePort(t)
		var out syncBuffer
		cmd := exec.Command(binary(t, host), "qemu", "--arch", string(arch), "--accel", "tcg", "--http-port", fmt.Sprint(port), "--ssh-port", fmt.Sprint(freePort(t)),
			"--backend-port", fmt.Sprint(freePort(t)), factory(t, arch))
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		got, _ := ask(t, fmt.Sprintf("http://127.0.0.1:%d/", port), time.Now())
		if !strings.HasPrefix(got, "This is the backend, and 127.0.0.1:") {
			t.Errorf("got %q through the box", got)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
		if !strings.Contains(out.String(), fmt.Sprintf("curl http://127.0.0.1:%d/", port)) {
			t.Errorf("it doesn't say what to try:\n%s", out.String())
		}
	})
}

// syncBuffer is what a process writes.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// read is the EFI system partition of an image.
func read(t *testing.T, name string) []disk.File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := disk.Check(f)
	if err != nil {
		t.Fatal(err)
	}
	var files []disk.File
	for _, one := range img.Files {
		data, err := img.ReadFile(one.Path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, disk.File{Path: one.Path, Data: data})
	}
	return files
}
