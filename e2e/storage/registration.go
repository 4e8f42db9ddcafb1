package main

import (
	"context"
	"log/slog"

	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// registrar answers the kubelet, which finds the socket in its plugins_registry.
// With these two methods no node-driver-registrar is needed.
type registrar struct {
	registration.UnimplementedRegistrationServer

	driver   string
	endpoint string
}

func (r registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              r.driver,
		Endpoint:          r.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (r registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if s.GetPluginRegistered() {
		slog.Info("registered with the kubelet", "driver", r.driver)
	} else {
		slog.Error("the kubelet refuses the driver", "driver", r.driver, "err", s.GetError())
	}
	return &registration.RegistrationStatusResponse{}, nil
}
