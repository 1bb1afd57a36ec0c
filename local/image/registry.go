package image

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/go-logr/logr"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// registry answers the pull part of the OCI distribution specification.
type registry struct {
	source *source
	log    logr.Logger
}

// The codes of the specification that a registry without push needs.
const (
	codeBlobUnknown     = "BLOB_UNKNOWN"
	codeManifestUnknown = "MANIFEST_UNKNOWN"
	codeNameInvalid     = "NAME_INVALID"
	codeDigestInvalid   = "DIGEST_INVALID"
	codeNameUnknown     = "NAME_UNKNOWN"
	codeUnsupported     = "UNSUPPORTED"
)

// refusal is an answer that is an error.
type refusal struct {
	status        int
	code, message string
}

func (r registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if refused := r.serve(w, req); refused != nil {
		// Containerd asks for much that only the registry we stand before has.
		r.log.V(1).Info("Refused", "method", req.Method, "path", req.URL.Path, "registry", req.URL.Query().Get("ns"), "status", refused.status, "code", refused.code)
		refused.write(w)
		return
	}
	r.log.V(1).Info("Served", "method", req.Method, "path", req.URL.Path, "registry", req.URL.Query().Get("ns"))
}

func (r registry) serve(w http.ResponseWriter, req *http.Request) *refusal {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return &refusal{http.StatusMethodNotAllowed, codeUnsupported, "this registry is for pulling only"}
	}
	asked, err := parsePath(req.URL.Path)
	switch {
	case errors.Is(err, errName):
		return &refusal{http.StatusBadRequest, codeNameInvalid, err.Error()}
	case errors.Is(err, errReference):
		return &refusal{http.StatusBadRequest, codeDigestInvalid, err.Error()}
	case err != nil:
		return &refusal{http.StatusNotFound, codeUnsupported, err.Error()}
	}
	if asked.endpoint == endpointVersion {
		writeJSON(w, http.StatusOK, struct{}{})
		return nil
	}
	have, err := r.source.contents()
	if err != nil {
		r.log.Error(err, "Reading the images again; serving what was there before")
	}
	repo := have.find(req.URL.Query().Get("ns"), asked.name)
	if repo == nil {
		return &refusal{http.StatusNotFound, codeNameUnknown, "no such repository"}
	}
	switch asked.endpoint {
	case endpointManifest:
		return r.manifest(w, req, repo, asked.reference)
	case endpointBlob:
		return r.blob(w, req, repo, asked.reference)
	default:
		writeJSON(w, http.StatusOK, struct {
			Name string   `json:"name"`
			Tags []string `json:"tags"`
		}{asked.name, slices.Sorted(maps.Keys(repo.tags))})
		return nil
	}
}

func (r registry) manifest(w http.ResponseWriter, req *http.Request, repo *repository, reference string) *refusal {
	d, ok := repo.tags[reference]
	if !ok {
		d, ok = repo.manifests[reference]
	}
	if !ok {
		return &refusal{http.StatusNotFound, codeManifestUnknown, "no such manifest"}
	}
	w.Header().Set("Content-Type", string(d.MediaType))
	return r.content(w, req, d.Digest, codeManifestUnknown)
}

func (r registry) blob(w http.ResponseWriter, req *http.Request, repo *repository, reference string) *refusal {
	if !repo.blobs[reference] {
		return &refusal{http.StatusNotFound, codeBlobUnknown, "no such blob"}
	}
	digest, err := v1.NewHash(reference)
	if err != nil {
		return &refusal{http.StatusBadRequest, codeDigestInvalid, err.Error()}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	return r.content(w, req, digest, codeBlobUnknown)
}

// content answers with a file of the layout, or with the range of it that is
// asked for.
func (r registry) content(w http.ResponseWriter, req *http.Request, digest v1.Hash, missing string) *refusal {
	f, err := os.Open(blobPath(r.source.dir, digest))
	if errors.Is(err, fs.ErrNotExist) {
		// Replaced between the reading of the index and now.
		return &refusal{http.StatusNotFound, missing, "no longer there"}
	}
	if err != nil {
		r.log.Error(err, "Opening a blob", "digest", digest.String())
		return &refusal{http.StatusInternalServerError, "UNKNOWN", "the blob cannot be read"}
	}
	defer f.Close()
	w.Header().Set("Docker-Content-Digest", digest.String())
	w.Header().Set("ETag", `"`+digest.String()+`"`)
	http.ServeContent(w, req, "", time.Time{}, f)
	return nil
}

func (r *refusal) write(w http.ResponseWriter) {
	type problem struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	writeJSON(w, r.status, struct {
		Errors []problem `json:"errors"`
	}{[]problem{{r.code, r.message}}})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("X-Content-Type-Options", "nosniff")
	// What this version of the API calls itself; old clients look for it.
	header.Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.WriteHeader(status)
	// A client that is gone needs no answer.
	_ = json.NewEncoder(w).Encode(v)
}
