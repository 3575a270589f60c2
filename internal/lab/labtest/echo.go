package labtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/lastack/lastack/internal/lab"
)

// echoRole is the environment variable that makes the test program an echo
// server on the address it holds.
const echoRole = "LASTACK_LAB_ECHO"

// EchoProcess starts an echo server in a process of its own on h and returns
// where it listens: the limit of open files is that of a process, and a test of
// very many connections needs more for both ends. TestMain must call Main.
func EchoProcess(t testing.TB, h *lab.Host, addr string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), echoRole+"="+addr)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	t.Cleanup(func() {
		in.Close() // it ends at that
		if err := cmd.Wait(); err != nil {
			t.Errorf("the echo server: %v", err)
		}
	})
	if err != nil {
		t.Fatalf("the echo server on %s did not start: %v", h.Name(), err)
	}
	return strings.TrimSpace(line)
}

// playEcho is that server: it says where it listens and ends with its input.
func playEcho(addr string) int {
	h, err := lab.Here("echo")
	if err == nil {
		defer h.Close()
		err = serveEcho(h, addr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serveEcho(h *lab.Host, addr string) error {
	s, err := lab.Echo(context.Background(), h, addr)
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println(s.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
