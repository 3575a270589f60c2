package admin_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/services/admin"
)

// changer remembers what it is asked to change.
type changer struct {
	admin.Source
	asked []string
}

func (c *changer) ApplyConfig(name string, text []byte, how admin.Change) (admin.ConfigDiff, error) {
	c.asked = append(c.asked, fmt.Sprintf("%s %q %+v", name, text, how))
	return admin.ConfigDiff{File: "own.yaml", Within: 35 * time.Second}, nil
}

func (c *changer) RollbackConfig(number int, how admin.Change) (admin.ConfigDiff, error) {
	c.asked = append(c.asked, fmt.Sprintf("%d %+v", number, how))
	return admin.ConfigDiff{File: "own.yaml"}, nil
}

func TestHowAChangeComesReachesTheSource(t *testing.T) {
	src, socket := &changer{}, filepath.Join(t.TempDir(), "a.sock")
	serve(t, socket, src)
	client := admin.NewClient(socket)
	diff, err := client.ApplyConfig(t.Context(), "a b.yaml", []byte("x: 1\n"), admin.Change{Confirm: time.Minute, Restart: true})
	if err != nil || diff.Within != 35*time.Second {
		t.Errorf("got %+v, %v", diff, err)
	}
	if _, err := client.RollbackConfig(t.Context(), 7, admin.Change{Restart: true}); err != nil {
		t.Error(err)
	}
	if _, err := client.RollbackConfig(t.Context(), 0, admin.Change{}); err != nil {
		t.Error(err)
	}
	want := `a b.yaml "x: 1\n" {Confirm:1m0s Restart:true}, 7 {Confirm:0s Restart:true}, 0 {Confirm:0s Restart:false}`
	if got := strings.Join(src.asked, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	src.asked = nil
	web := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	for _, wrong := range []string{"restart=yes", "restart=2", "confirm=-1s", "confirm=soon"} {
		for _, path := range []string{"config", "config/rollback"} {
			res, err := web.Post("http://appliance/v1/"+path+"?"+wrong, "", strings.NewReader("x: 1\n"))
			if err != nil {
				t.Fatal(err)
			}
			if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusBadRequest {
				t.Errorf("%s?%s: %s, %v", path, wrong, res.Status, err)
			}
		}
	}
	if len(src.asked) > 0 {
		t.Errorf("it was asked %v", src.asked)
	}
}
