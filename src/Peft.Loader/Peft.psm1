# The root module: loads the cmdlets through the loader, in a load context of their own, and hands them to this module.
# It uses no cmdlet beyond Microsoft.PowerShell.Core, so that it works in any host of the engine.
$null = [System.Reflection.Assembly]::LoadFrom([System.IO.Path]::Combine($PSScriptRoot, 'Peft.Loader.dll'))
$cmdlets = Microsoft.PowerShell.Core\Import-Module -Assembly ([Peft.Loader.ModuleLoader]::Load()) -PassThru

# On a second import in the same process PowerShell takes the nested module from its cache: it leaves its cmdlets and
# aliases out of this one and looks for their help in this module's folder alone.
$help = [System.IO.Path]::Combine($PSScriptRoot, 'lib', 'en-US', 'Peft.Cmdlets.dll-Help.xml')
$helpFile = [System.Management.Automation.CmdletInfo].GetProperty('HelpFile')
$addCmdlet = [System.Management.Automation.PSModuleInfo].GetMethod('AddExportedCmdlet', [System.Reflection.BindingFlags]'Instance, NonPublic')
foreach ($cmdlet in $cmdlets.ExportedCmdlets.Values) {
    $helpFile.SetValue($cmdlet, $help)
    if (-not $ExecutionContext.SessionState.Module.ExportedCmdlets.ContainsKey($cmdlet.Name)) {
        $null = $addCmdlet.Invoke($ExecutionContext.SessionState.Module, @(, $cmdlet))
    }

    foreach ($attribute in $cmdlet.ImplementingType.GetCustomAttributes([System.Management.Automation.AliasAttribute], $false)) {
        foreach ($alias in $attribute.AliasNames) {
            $null = $ExecutionContext.InvokeProvider.Item.Set("alias:$alias", $cmdlet.Name)
        }
    }
}

# What an error recommends is offered as commands at the prompt, where this PowerShell has feedback providers.
$feedback = [System.IO.Path]::Combine($PSScriptRoot, 'Peft.Feedback.dll')
if ([System.IO.File]::Exists($feedback)) {
    try {
        $null = [System.Reflection.Assembly]::LoadFrom($feedback).GetType('Peft.Feedback.RecommendedActionFeedback').GetMethod('Register').Invoke($null, $null)
    }
    catch {
        # The module works without it.
    }
}

Microsoft.PowerShell.Core\Export-ModuleMember -Cmdlet * -Alias *
