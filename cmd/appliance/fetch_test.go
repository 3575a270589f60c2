package main

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// What a URL names comes over the appliance's own stack, whole, or with an error.
func TestAFileIsFetchedOverTheOwnStack(t *testing.T) {
	r := newRig(t, nil)
	r.configure("services: {echo: {type: echo, listen: \"wan0:7\"}}\n")
	whole := bytes.Repeat([]byte("firmware "), 400_000)
	l, err := r.backend.Listen(t.Context(), "tcp", "10.0.0.21:80")
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/whole":
			_, _ = w.Write(whole)
		case "/cut":
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(whole[:5000])
		default:
			http.NotFound(w, q)
		}
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { _ = server.Close(); <-served }()
	p := r.start()

	body, _, err := r.admin.Fetch(t.Context(), "http://10.0.0.21/whole")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(got, whole) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(whole))
	}
	_ = body.Close()

	body, size, err := r.admin.Fetch(t.Context(), "http://10.0.0.21/cut")
	if err != nil || size != 1_000_000 {
		t.Fatalf("got %d, %v", size, err)
	}
	if got, err := io.ReadAll(body); err == nil {
		t.Errorf("a file that is cut off ends well, after %d bytes", len(got))
	}
	_ = body.Close()

	for url, want := range map[string]string{
		"http://10.0.0.21/none":       "10.0.0.21 answers 404 Not Found",
		"http://10.0.0.21:81/":        "connection refused",
		"ftp://10.0.0.21/":            "is no http or https URL",
		"http://bundles.example.com/": "no name server is known",
	} {
		if _, _, err := r.admin.Fetch(t.Context(), url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want ...%s...", url, err, want)
		}
	}
	p.stop()
}
