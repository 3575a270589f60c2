package boot

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// notice is what the appliance tells its service manager: sd_notify(3).
type notice struct {
	ready    bool
	alive    bool
	stopping bool
	pid      int           // another process is the one to look at, 0 if not
	extend   time.Duration // so much more time to stop
	status   string
}

func parseNotice(text string) (n notice) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case key == "READY" && value == "1":
			n.ready = true
		case key == "WATCHDOG" && value == "1":
			n.alive = true
		case key == "STOPPING" && value == "1":
			n.stopping = true
		case key == "MAINPID":
			n.pid, _ = strconv.Atoi(value)
		case key == "EXTEND_TIMEOUT_USEC":
			us, _ := strconv.ParseInt(value, 10, 64)
			n.extend = time.Duration(us) * time.Microsecond
		case key == "STATUS":
			n.status = value
		}
	}
	return n
}

// listenNotices opens the socket; only the user with the given number, and root, can write to it.
func listenNotices(path string, chown func(string, int, int) error) (*net.UnixConn, error) {
	_ = os.Remove(path) // of a former run, in tests
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for the appliance: %w", err)
	}
	if err := chown(path, 0, User); err != nil {
		return nil, wrap("listen for the appliance", err)
	}
	return c, wrap("listen for the appliance", os.Chmod(path, 0o620))
}

// readNotices passes on what comes until the socket is closed.
func readNotices(c *net.UnixConn, to func(notice)) {
	buf := make([]byte, 4096)
	for {
		n, _, err := c.ReadFromUnix(buf)
		if err != nil {
			return
		}
		to(parseNotice(string(buf[:n])))
	}
}
