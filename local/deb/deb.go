// Package deb installs the Debian packages that the embedded super cluster needs.
package deb

import (
	"context"
	"errors"
)

// Install makes sure that the packages are installed: it asks dpkg which are
// missing and installs those, without recommended ones, in one apt-get call.
// apt's output goes to logFile. On a system without dpkg and apt-get the error
// lists the packages to install by hand. An error is a *progress.LogError where
// the log explains it.
func Install(ctx context.Context, logFile string, packages ...string) error {
	return errors.New("deb.Install: not written yet")
}
