package carrytest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// crowdRole is the environment variable that makes a program one of a crowd's
// processes: the limit of open files is that of a process.
const crowdRole = "LASTACK_CROWD"

// IsCrowd reports whether this process is to be one of a crowd's. Its main
// function then has PlayCrowd to call, and nothing else.
func IsCrowd() bool { return os.Getenv(crowdRole) != "" }

// PlayCrowd is such a process. It returns the exit status.
func PlayCrowd() int {
	h, err := lab.Here("crowd")
	if err == nil {
		defer h.Close()
		var addr string
		var n int
		if _, err = fmt.Sscan(os.Getenv(crowdRole), &addr, &n); err == nil {
			err = playCrowd(h, addr, n)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the crowd:", err)
		return 1
	}
	return 0
}

// playCrowd serves the address, or makes n connections to it.
func playCrowd(h *lab.Host, addr string, n int) error {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	if n == 0 {
		s, err := ServeCrowd(h, []netip.AddrPort{at})
		if err != nil {
			return err
		}
		defer s.Close()
		fmt.Println("ready")
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	}
	c, err := OpenCrowd(context.Background(), []Origin{{h, at}}, n)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Println("ready")
	return c.obey(os.Stdin, os.Stdout)
}

// obey asks as often as each line says, and tells how many were lost since the
// beginning.
func (c *Crowd) obey(in io.Reader, out io.Writer) error {
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var n int
		if _, err := fmt.Sscan(lines.Text(), &n); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := c.Ask(ctx, r, n)
		cancel()
		if err != nil {
			return err
		}
		lost, why := c.Lost()
		fmt.Fprintln(out, lost, why)
	}
	return nil
}

// CrowdProcess is a process of a crowd. Whoever starts it closes it.
type CrowdProcess struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Reader
}

// StartCrowd starts a process on h that makes n connections to an address, or
// serves it if n is 0. The program must heed IsCrowd. Await tells when it is ready.
func StartCrowd(h *lab.Host, at netip.AddrPort, n int) (*CrowdProcess, error) {
	p := &CrowdProcess{cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", crowdRole, at, n))
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.lines = in, bufio.NewReader(out)
	return p, h.Start(p.cmd)
}

// Await waits until the process is ready.
func (p *CrowdProcess) Await() error {
	line, err := p.lines.ReadString('\n')
	if err != nil || line != "ready\n" {
		return fmt.Errorf("a process of the crowd says %q: %w", line, err)
	}
	return nil
}

// Ask lets n of the connections ask. Answered waits for all answers; an error is
// that connections were lost.
func (p *CrowdProcess) Ask(n int) error {
	_, err := fmt.Fprintln(p.in, n)
	return err
}

// Answered is the end of an Ask.
func (p *CrowdProcess) Answered() error {
	line, err := p.lines.ReadString('\n')
	if err != nil {
		return fmt.Errorf("a process of the crowd has ended: %w", err)
	}
	if count, why, _ := strings.Cut(strings.TrimSpace(line), " "); count != "0" {
		return fmt.Errorf("%s connections were lost, the first: %s", count, why)
	}
	return nil
}

// Close ends the process and with it its connections.
func (p *CrowdProcess) Close() error {
	// If it has ended already, Wait says why.
	_ = p.in.Close()
	return p.cmd.Wait()
}
