package main

import (
	"github.com/spf13/cobra"

	"github.com/bulkhead-dev/bulkhead/local/process"
)

func newSuperviseCommand() *cobra.Command {
	var dir string
	command := &cobra.Command{
		Use:    "supervise SERVICE",
		Short:  "Keep one service running",
		Hidden: true, // process.Manager starts it
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return process.Supervise(cmd.Context(), dir, args[0])
		},
	}
	command.Flags().StringVar(&dir, "dir", "", "folder of the services' specifications")
	_ = command.MarkFlagRequired("dir")
	return command
}
